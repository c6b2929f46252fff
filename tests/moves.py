"""Count how often an execution moves from one file of the package to another."""

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

PACKAGE = str(Path(__file__).parent.parent / "cdl_d2")


def count_moves(call: Callable[[], object]) -> tuple[int, int, int]:
    """Return the numbers of calls into the package, of moves between its files, and of files."""
    files: list[str] = []

    def record(frame, event, _argument):
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            files.append(frame.f_code.co_filename)

    sys.setprofile(record)
    try:
        call()
    finally:
        sys.setprofile(None)
    moves = sum(a != b for a, b in pairwise(files))
    return len(files), moves, len(set(files))
