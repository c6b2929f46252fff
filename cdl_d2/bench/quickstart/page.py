"""The table of a quick start, for a terminal and for a page, and the page itself."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cdl_d2.files import write_text

HEAD = ("", "box AP", "mask AP", "bits/pixel", "G multiply-adds", "ms/image")
STYLE = (
    "body{font-family:sans-serif;max-width:75em;margin:2em auto;padding:0 1em;line-height:1.4}"
    "table{border-collapse:collapse;display:block;overflow-x:auto}"
    "td,th{padding:.3em 1em;border-bottom:1px solid #ccc;text-align:right}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%}"
    "pre{overflow-x:auto;background:#f4f4f4;padding:1em}"
    ".row{display:grid;grid-template-columns:repeat(auto-fit,minmax(15em,1fr));gap:1em}"
    "figure{margin:0}figure img{width:100%}figcaption{font-size:.9em}"
)


@dataclass(frozen=True)
class Cost:
    """Of one image.

    Attributes:
        giga_multiply_adds: of the backbone, pyramid and, where it runs, the image decoder; heads
            cost the same either way. None without fvcore, which counts them.
        milliseconds: from bitstream to detections, median.
    """

    giga_multiply_adds: float | None
    milliseconds: float


@dataclass(frozen=True)
class Row:
    """A line of the table; None where something does not apply."""

    title: str
    box_ap: float
    mask_ap: float
    bpp: float | None
    cost: Cost | None


def cells_of(row: Row) -> tuple[str, ...]:
    """The row's texts, under HEAD."""
    return (
        row.title,
        f"{row.box_ap:.1f}",
        f"{row.mask_ap:.1f}",
        _number(row.bpp, 3),
        _number(row.cost and row.cost.giga_multiply_adds, 2),
        _number(row.cost and row.cost.milliseconds, 0),
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def as_text(rows: Sequence[Row]) -> str:
    """The table for a terminal."""
    lines = [HEAD, *map(cells_of, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    return "\n".join(
        "  ".join(text.ljust(w) if not i else text.rjust(w) for i, (text, w) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in lines)
    )


def as_html(rows: Sequence[Row]) -> str:
    """The table for a page."""

    def line(texts: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(t)}</{tag}>" for t in texts) + "</tr>"

    return (
        "<table>" + line(HEAD, "th") + "".join(line(cells_of(r), "td") for r in rows) + "</table>"
    )


def embedded(picture: bytes, kind: str, alt: str) -> str:
    """A picture inside of the page.

    Args:
        kind: `png` or `jpeg`.
        alt: what it shows, for those who do not see it.
    """
    data = base64.b64encode(picture).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/{kind};base64,{data}">'


def write_page(path: Path, parts: Sequence[str]) -> None:
    """Write a page that needs no other file, readable on a phone, too."""
    head = (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<title>cdl_d2</title><style>{STYLE}</style>"
    )
    write_text(path, head + "\n".join(parts))
