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

# Colors follow the system's light or dark mode. On narrow screens a table row becomes a block: its
# first cell is the title, the others follow with the names of their columns.
STYLE = """
:root{color-scheme:light dark;--line:#8886;--soft:#8882}
body{font-family:sans-serif;max-width:75em;margin:2em auto;padding:0 1em;line-height:1.45}
h1{line-height:1.2}
p{max-width:60em}
table{border-collapse:collapse}
td,th{padding:.35em .8em;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
td:first-child,th:first-child{text-align:left;padding-left:0;white-space:normal}
img{max-width:100%}
.plot{background:#fff;border-radius:.4em}
pre{overflow-x:auto;background:var(--soft);padding:1em;border-radius:.4em}
.row{display:grid;grid-template-columns:repeat(auto-fit,minmax(13em,1fr));gap:1em}
figure{margin:0}
figure img{width:100%}
figcaption{font-size:.9em}
@media(max-width:45em){
th{display:none}
tr:not(:first-child){display:flex;flex-wrap:wrap;gap:0 1.2em;padding:.6em 0;
border-bottom:1px solid var(--line)}
td{border:0;padding:0}
td:first-child{flex-basis:100%;font-weight:bold}
td:not(:first-child)::before{content:attr(data-column) " ";opacity:.7}
}
"""


def table_html(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of texts in HTML."""
    columns, *lines = ([html.escape(text) for text in line] for line in (head, *rows))
    parts = ["<tr>", *(f"<th>{column}</th>" for column in columns), "</tr>"]
    for line in lines:
        cells = zip(columns, line, strict=True)
        cell_parts = (f'<td data-column="{column}">{text}</td>' for column, text in cells)
        parts += ["<tr>", *cell_parts, "</tr>"]
    return f"<table>{''.join(parts)}</table>"


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
    return embed_picture(buffer.getvalue(), "png", alt).replace("<img", "<img class=plot", 1)


def figure_row(title: str, pictures: Mapping[str, np.ndarray]) -> str:
    """Return HTML of pictures side by side, H x W x 3 uint8 by caption, under a title."""
    parts = [f"<h2>{html.escape(title)}</h2><div class=row>"]
    for caption, pixels in pictures.items():
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="JPEG", quality=85)
        picture = embed_picture(buffer.getvalue(), "jpeg", f"{title}: {caption}")
        parts.append(f"<figure>{picture}<figcaption>{html.escape(caption)}</figcaption></figure>")
    return "".join([*parts, "</div>"])


def write_page(path: Path, title: str, parts: Sequence[str]) -> None:
    """Write an HTML page that begins with its title."""
    head = (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>"
    )
    write_text(path, "\n".join([head, f"<h1>{html.escape(title)}</h1>", *parts]))
