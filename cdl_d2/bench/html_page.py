"""HTML pages that need no other file."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from cdl_d2.files import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = (
    "body{font-family:sans-serif;max-width:75em;margin:2em auto;padding:0 1em;line-height:1.4}"
    "table{border-collapse:collapse;display:block;overflow-x:auto}"
    "td,th{padding:.3em 1em;border-bottom:1px solid #ccc;text-align:right}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%}"
    "pre{overflow-x:auto;background:#f4f4f4;padding:1em}"
    ".row{display:grid;grid-template-columns:repeat(auto-fit,minmax(15em,1fr));gap:1em}"
    "figure{margin:0}figure img{width:100%}figcaption{font-size:.9em}"
)


def table_html(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of texts in HTML."""

    def line(texts: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(t)}</{tag}>" for t in texts) + "</tr>"

    return "<table>" + line(head, "th") + "".join(line(row, "td") for row in rows) + "</table>"


def embed_picture(picture: bytes, kind: str, alt: str) -> str:
    """Return an HTML image that holds its data.

    Args:
        picture: content of an image file.
        kind: its format, `png` or `jpeg`.
        alt: text that describes the picture.
    """
    data = base64.b64encode(picture).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/{kind};base64,{data}">'


def embed_figure(figure: Figure, alt: str) -> str:
    """Return an HTML image of a plot."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    return embed_picture(buffer.getvalue(), "png", alt)


def figure_row(title: str, pictures: Mapping[str, np.ndarray]) -> str:
    """Return HTML of pictures side by side, H x W x 3 uint8 by caption, under a title."""
    parts = [f"<h2>{html.escape(title)}</h2><div class=row>"]
    for caption, pixels in pictures.items():
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="JPEG", quality=85)
        picture = embed_picture(buffer.getvalue(), "jpeg", f"{title}: {caption}")
        parts.append(f"<figure>{picture}<figcaption>{html.escape(caption)}</figcaption></figure>")
    return "".join([*parts, "</div>"])


def write_page(path: Path, parts: Sequence[str]) -> None:
    """Write an HTML page."""
    head = (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<title>cdl_d2</title><style>{STYLE}</style>"
    )
    write_text(path, head + "\n".join(parts))
