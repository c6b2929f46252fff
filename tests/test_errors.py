import pytest
import torch

from cdl_d2.errors import CdlError, imports_of_extra, within_memory


def test_a_missing_package_is_named_with_its_extra():
    with (
        pytest.raises(CdlError, match=r"no_such_package.*cdl_d2\[report\]"),
        imports_of_extra("report"),
    ):
        import no_such_package  # noqa: F401


@pytest.mark.parametrize("allocate", [lambda: bytearray(2**62), lambda: torch.empty(2**58)])
def test_a_lack_of_memory_becomes_an_error_of_the_package(allocate):
    with pytest.raises(CdlError, match="memory"), within_memory():
        allocate()
    with pytest.raises(RuntimeError, match="else"), within_memory():
        raise RuntimeError("something else")
