"""Times of new processes."""

import sys

import pytest

from cdl_d2.bench.startup import time_process
from cdl_d2.errors import CdlError


def test_a_process_has_a_time_or_is_named_if_it_fails():
    busy = "import time\nwhile time.process_time() < 0.1: pass"  # clocks tick every 0.01 s
    assert time_process([sys.executable, "-S", "-c", busy]) > 0.05
    with pytest.raises(CdlError, match="of-no-such-name"):
        time_process([sys.executable, "-S", "-c", "import sys; sys.exit('of-no-such-name')"])
