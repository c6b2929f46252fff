"""Tar files, plain and compressed, with links and what WebDataset puts beside an image."""

from __future__ import annotations

import gzip
import io
import tarfile
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import zstandard
from PIL import Image

from cdl_d2.errors import CdlError
from cdl_d2.prediction.reading import open_source
from cdl_d2.prediction.sources import find_sources

COMPRESS = {
    "tar": bytes,
    "gzip": partial(gzip.compress, mtime=0),
    "zstd": zstandard.ZstdCompressor().compress,
}


def make_tars() -> dict[str, bytes]:
    """One archive, however it is compressed."""
    packed, picture = io.BytesIO(), io.BytesIO()
    Image.radial_gradient("L").resize((40, 28)).save(picture, format="PNG")
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in (("0.png", picture.getvalue()), ("0.json", b"{}"), ("1.png", b"x")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for name, kind in (("hard.png", tarfile.LNKTYPE), ("soft.png", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "0.png"
            tar.addfile(member)
    return {name: compress(packed.getvalue()) for name, compress in COMPRESS.items()}


def read_tar(name: str, content: bytes, folder: Path) -> Any:
    """The pixels of the members that can be read."""
    (folder / "a.tar").write_bytes(content)
    pixels = {}
    for member, source in find_sources([str(folder / "a.tar")]).items():
        with suppress(CdlError):
            pixels[member] = open_source(source)
    return pixels
