"""The second device, for all tests of this folder."""

import pytest

from tests import second_device


@pytest.fixture(autouse=True)
def device():
    """The name of the device."""
    if not second_device.is_available():
        pytest.skip("PyTorch cannot have a device that is written in Python: 2.9 can")
    second_device.install()
    with second_device.autograd_in_one_thread():
        yield second_device.NAME
