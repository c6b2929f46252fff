"""Table of a quick start, in text."""

from __future__ import annotations

from collections.abc import Sequence

HEAD = ("", "box AP", "mask AP", "bits/pixel", "GMACs", "ms/image")


Row = tuple[str, ...]
# GMACs (10^9 multiply-adds) of backbone, feature pyramid and decoder, if it runs (None without
# fvcore, which counts them), and the median milliseconds from bitstream to detections.
Cost = tuple[float | None, float]


def format_row(
    title: str, results: dict[str, dict[str, float]], bpp: float | None, cost: Cost | None
) -> Row:
    """Return the texts of a row under HEAD, `-` for what does not apply."""
    precisions = [results["bbox"]["AP"], results["segm"]["AP"]]
    numbers = [*precisions, bpp, *(cost or (None, None))]
    pairs = zip(numbers, (1, 1, 3, 2, 0), strict=True)
    return title, *("-" if n is None else f"{n:.{digits}f}" for n, digits in pairs)


def table_text(rows: Sequence[Row]) -> str:
    """Return the table as text."""
    lines = [HEAD, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    return "\n".join(
        "  ".join(text.ljust(w) if not i else text.rjust(w) for i, (text, w) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in lines)
    )
