"""Where the program `cdl` begins: nothing is imported yet that takes a while to import."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence


def main(arguments: Sequence[object] | None = None) -> int:
    """As cdl_d2.cli.main.main, interrupted quietly from the first moment on."""
    try:
        from cdl_d2.cli.main import main

        return main(arguments)
    except KeyboardInterrupt:
        print("cdl: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
