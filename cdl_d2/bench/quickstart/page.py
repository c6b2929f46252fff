"""Table of a quick start, in text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

HEAD = ("", "box AP", "mask AP", "bits/pixel", "GMACs", "ms/image")


@dataclass(frozen=True)
class Cost:
    """Cost of one image.

    Attributes:
        gmacs: 10^9 multiply-adds of backbone, feature pyramid and decoder, if it runs; None if
            fvcore, which counts them, is not installed.
        milliseconds: median time from bitstream to detections.
    """

    gmacs: float | None
    milliseconds: float


@dataclass(frozen=True)
class Row:
    """A row of the table; None if a value does not apply."""

    title: str
    box_ap: float
    mask_ap: float
    bpp: float | None
    cost: Cost | None


def format_cells(row: Row) -> tuple[str, ...]:
    """Return the texts of a row, under HEAD."""
    return (
        row.title,
        f"{row.box_ap:.1f}",
        f"{row.mask_ap:.1f}",
        _number(row.bpp, 3),
        _number(row.cost and row.cost.gmacs, 2),
        _number(row.cost and row.cost.milliseconds, 0),
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def table_text(rows: Sequence[Row]) -> str:
    """Return the table as text."""
    lines = [HEAD, *map(format_cells, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    return "\n".join(
        "  ".join(text.ljust(w) if not i else text.rjust(w) for i, (text, w) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in lines)
    )
