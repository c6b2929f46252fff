"""Faults and repairs of an annotation file, collected while it is read and reported together."""

from __future__ import annotations

import logging
from functools import cache

from cdl_d2.errors import CdlError

LARGEST = 2**53  # up to which whole numbers are floats, too
LISTED = 20  # faults that a message names
SINGULAR = {"images": "image", "annotations": "annotation", "categories": "category"}


class Findings:
    """Faults and repairs of one file.

    Attributes:
        repaired: True once the normal form differs from the file.
    """

    def __init__(self, source: object):
        """
        Args:
            source: path of the file, or another name for messages.
        """
        self._source: object = source
        self._faults: list[str] = []
        self._notes: dict[str, list[str]] = {}
        self.repaired = False

    def fault(self, where: str, problem: object) -> None:
        """Note what cannot be repaired."""
        self._faults.append(f"{where}: {problem}")

    def repair(self, what: str, where: str) -> None:
        """Note a repair; `what` is a plural without a count, such as `annotations without area`."""
        self.repaired = True
        self.remark(what, where)

    def remark(self, what: str, where: str) -> None:
        """Note what a user must know of, and no reader of the file stumbles over."""
        self._notes.setdefault(what, []).append(where)

    def close(self) -> None:
        """Report the repairs in one line, once for a file.

        Raises:
            CdlError: with the first twenty faults, and how many there are.
        """
        if self._faults:
            count, listed = len(self._faults), "; ".join(self._faults[:LISTED])
            more = f"; and {count - LISTED} more" if count > LISTED else ""
            raise CdlError(f"{self._source} has faults ({count}): {listed}{more}: correct the file")
        if self._notes:
            parts = (f"{what}: {len(of)} ({of[0]})" for what, of in self._notes.items())
            _report_once(f"{self._source}: {'; '.join(parts)}")


@cache
def _report_once(text: str) -> None:
    logging.getLogger(__name__).warning(text)


def label_of(part: str, entry: object, index: int) -> str:
    """Name an entry of a part in messages: by its id, or by its place (from 0) if it has none."""
    number = entry.get("id") if isinstance(entry, dict) else None
    return f"{part}[{index}]" if number is None else f"{SINGULAR[part]} {number!r:.40}"


def whole(value: object) -> int | None:
    """The whole number that a value is, perhaps as text or as a float; None for anything else."""
    number = moderate(value)
    return int(number) if number is not None and number == int(number) else None


def moderate(value: object) -> int | float | None:
    """The number, of at most 2^53, that a value is, perhaps as text; None for anything else."""
    if type(value) is str and len(value) <= 40 and value.isascii() and "_" not in value:
        try:
            value = float(value) if {*".eE"}.intersection(value) else int(value)
        except ValueError:  # not finite, or no number: both are refused
            return None
    return value if type(value) in (int, float) and abs(value) <= LARGEST else None
