"""Faults and repairs of an annotation file, collected while it is read and reported together."""

from __future__ import annotations

from typing import Any

from cdl_d2.codec.io.folders import log_once
from cdl_d2.errors import CdlError

MAX_NUMBER = 2**53  # largest integer up to which floats are exact
MAX_LISTED = 20  # faults in a message
SINGULAR = {"images": "image", "annotations": "annotation", "categories": "category"}


class Findings:
    """Faults and repairs of one file, `source`.

    Attributes:
        repaired: True if the normal form differs from the file.
    """

    def __init__(self, source: object):
        self._source = source
        self._faults: list[str] = []
        self._notes: dict[str, list[str]] = {}
        self.repaired = False

    def fault(self, label: str, problem: object) -> None:
        """Record a problem of a record that cannot be repaired."""
        self._faults.append(f"{label}: {problem}")

    def repair(self, kind: str, label: str) -> None:
        """Record a repair; `kind` is a plural noun phrase such as `annotations without area`."""
        self.repaired = True
        self.remark(kind, label)

    def remark(self, kind: str, label: str) -> None:
        """Record a notice for users; the record is valid as it is."""
        self._notes.setdefault(kind, []).append(label)

    def close(self) -> None:
        """Log the repairs in one line, once per file.

        Raises:
            CdlError: if there are faults; with the first twenty and their number.
        """
        if self._faults:
            count, listed = len(self._faults), "; ".join(self._faults[:MAX_LISTED])
            more = f"; and {count - MAX_LISTED} more" if count > MAX_LISTED else ""
            raise CdlError(f"{self._source} has faults ({count}): {listed}{more}: correct the file")
        if self._notes:
            parts = (f"{kind}: {len(of)} ({of[0]})" for kind, of in self._notes.items())
            log_once(f"{self._source}: {'; '.join(parts)}")


def unique_records(
    part: str, records: list[Any], name_key: str, findings: Findings
) -> list[dict[str, Any]]:
    """Return the valid records of a part, images or categories, with unique integer ids.

    A record must have `name_key` beside `id`.
    """
    by_id: dict[int, dict[str, Any]] = {}
    for index, record in enumerate(records):
        label = label_record(part, record, index)
        if not isinstance(record, dict) or not {"id", name_key} <= record.keys():
            findings.fault(label, f"{part} without 'id' or {name_key!r}: {record!r:.80}")
            continue
        number = as_integer(record["id"])
        if number is None:
            findings.fault(label, "ids must be whole numbers up to 2^53")
            continue
        if type(record["id"]) is not int:
            findings.repair(f"ids of {part} as text or floats", label)
        record = record | {"id": number}
        first = by_id.setdefault(number, record)
        if first != record:
            findings.fault(label, f"several {part} of id {number}: ids must be unique")
        elif first is not record:
            findings.repair(f"{part} listed twice", label)
    return list(by_id.values())


def label_record(part: str, record: object, index: int) -> str:
    """Return a record's name for messages: its id, or its index (from 0) if it has none."""
    number = record.get("id") if isinstance(record, dict) else None
    return f"{part}[{index}]" if number is None else f"{SINGULAR[part]} {number!r:.40}"


def as_integer(value: object) -> int | None:
    """Return a value (number or text) as an integer, None if it is not a whole number."""
    number = as_number(value)
    return int(number) if number is not None and number == int(number) else None


def as_number(value: object) -> int | float | None:
    """Return a value (number or text) as a number, None unless it is one of at most 2^53."""
    if type(value) is str and len(value) <= 40 and value.isascii() and "_" not in value:
        try:
            value = float(value) if {*".eE"}.intersection(value) else int(value)
        except ValueError:  # also of "nan" and "inf"
            return None
    return value if type(value) in (int, float) and abs(value) <= MAX_NUMBER else None
