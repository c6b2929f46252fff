from hypothesis import HealthCheck, given, settings

from tests.codec.bitstream.fuzz_bitstream import check, damaged_files


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(damaged_files())
def test_a_damaged_file_is_refused_or_decodes_without_harm(example):
    check(example)
