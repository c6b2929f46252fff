"""Report page of a quick start, and its table in HTML and in text."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cdl_d2.files import write_text

HEAD = ("", "box AP", "mask AP", "bits/pixel", "GMACs", "ms/image")
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


def table_html(rows: Sequence[Row]) -> str:
    """Return the table in HTML."""

    def line(texts: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(t)}</{tag}>" for t in texts) + "</tr>"

    lines = [line(HEAD, "th"), *(line(format_cells(row), "td") for row in rows)]
    return "<table>" + "".join(lines) + "</table>"


def embed_picture(picture: bytes, kind: str, alt: str) -> str:
    """Return an HTML image that holds its data.

    Args:
        picture: content of an image file.
        kind: its format, `png` or `jpeg`.
        alt: text that describes the picture.
    """
    data = base64.b64encode(picture).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/{kind};base64,{data}">'


def write_page(path: Path, parts: Sequence[str]) -> None:
    """Write an HTML page that needs no other file."""
    head = (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<title>cdl_d2</title><style>{STYLE}</style>"
    )
    write_text(path, head + "\n".join(parts))
