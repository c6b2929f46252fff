"""Entry point of the program `cdl`, without slow imports."""

from __future__ import annotations

import codecs
import locale
import os
import signal
import sys
from collections.abc import Sequence


def main(arguments: Sequence[object] | None = None) -> int:
    """Run cdl_d2.cli.main.main, with a quiet exit on Ctrl-C during imports, too."""
    try:
        _use_utf8()
        from cdl_d2.cli.main import main

        return main(arguments)
    except KeyboardInterrupt:
        print("cdl: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


def _use_utf8() -> None:
    """Restart this program in Python's UTF-8 mode if the locale has another encoding.

    Then file names, arguments, output, and the files that other packages read and write are UTF-8,
    in this process and those that it starts.
    """
    if codecs.lookup(locale.getpreferredencoding(False)).name != "utf-8":
        environment = os.environ | {"PYTHONUTF8": "1"}
        os.execve(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]], environment)


if __name__ == "__main__":
    sys.exit(main())
