"""Where the program `cdl` begins: nothing is imported yet that takes a while to import."""

from __future__ import annotations

import codecs
import locale
import os
import signal
import sys
from collections.abc import Sequence


def main(arguments: Sequence[object] | None = None) -> int:
    """Run cdl_d2.cli.main.main, interrupted quietly from the first moment on."""
    try:
        _use_utf8()
        from cdl_d2.cli.main import main

        return main(arguments)
    except KeyboardInterrupt:
        print("cdl: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


def _use_utf8() -> None:
    """Start this program once more in Python's UTF-8 mode if the locale has another encoding.

    Names of files and classes, the words of the command line, what is printed, and what other
    packages read and write are UTF-8 then, here and in the processes that are started from here.
    """
    if codecs.lookup(locale.getpreferredencoding(False)).name != "utf-8":
        environment = os.environ | {"PYTHONUTF8": "1"}
        os.execve(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]], environment)


if __name__ == "__main__":
    sys.exit(main())
