import pytest

from cdl_d2.errors import CdlError, imports_of_extra


def test_a_package_that_is_missing_is_named_with_the_extra_that_brings_it():
    with (
        pytest.raises(CdlError, match=r"no_such_package.*cdl_d2\[report\]"),
        imports_of_extra("report"),
    ):
        import no_such_package  # noqa: F401
