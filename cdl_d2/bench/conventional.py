"""Codecs that are not learned, to compare with: images as they look after JPEG, HEVC or BPG."""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image, features
from tqdm import tqdm

from cdl_d2.codec.io.image_files import find_images, read_image, write_png
from cdl_d2.codec.io.output_paths import output_paths
from cdl_d2.errors import CdlError, imports_of_extra
from cdl_d2.files import check_empty_folder, write_json


@dataclass(frozen=True)
class ConventionalCodec:
    """A format of image files; colour is stored at half the resolution (4:2:0) in all of them.

    Attributes:
        qualities: from those of the smallest files to those of the largest.
        encode: from an RGB image and a quality to the file's content.
        decode: back to an image.
        version: names the encoder; raises CdlError if it is not installed.
        picture_bytes: of a file's content, without the container around the picture.
    """

    name: str
    qualities: Sequence[int]
    encode: Callable[[Image.Image, int], bytes]
    decode: Callable[[bytes], Image.Image]
    version: Callable[[], str]
    picture_bytes: Callable[[bytes], int] = len

    def check(self, quality: int | None) -> None:
        """Raise CdlError if it cannot be used, or does not have a quality."""
        self.version()
        if quality is not None and quality not in self.qualities:
            low, high = min(self.qualities), max(self.qualities)
            raise CdlError(f"quality {quality} is not one of {low}..{high} for {self.name}")


def decoded_paths(images: Path, output: Path) -> dict[Path, Path]:
    """Return the PNG file for the decoded copy of each image under a folder.

    Raises:
        NotADirectoryError, CdlError: as find_images; CdlError if the output is not an empty folder,
            or two copies would have the same name.
    """
    check_empty_folder(output)
    names = {path: path.relative_to(images) for path in find_images(images)}
    return output_paths(names, output, (".png",))


class Recoding:
    """Writes decoded copies of images, and sums up what their files would cost."""

    def __init__(self, codec: ConventionalCodec, quality: int):
        self._codec, self._quality = codec, quality
        self._images = self._pixels = self._bits = self._picture_bits = 0

    def write(self, path: Path, target: Path | None = None) -> None:
        """Code an image, and write it as it looks afterwards, if anywhere.

        Raises:
            CdlError, OSError: if it cannot be read, coded or written.
        """
        image = Image.fromarray(read_image(path).permute(1, 2, 0).numpy())
        content = self._codec.encode(image, self._quality)
        if target is not None:
            write_png(target, np.asarray(self._codec.decode(content).convert("RGB")))
        self._images += 1
        self._pixels += image.width * image.height
        self._bits += 8 * len(content)
        self._picture_bits += 8 * self._codec.picture_bytes(content)

    @property
    def bpp(self) -> float:
        """All bits of the files, over all pixels; raises CdlError if there are none."""
        if not self._pixels:
            raise CdlError("no image could be coded")
        return self._bits / self._pixels

    def save(self, output: Path) -> None:
        """Write `rate.json`, in which `bpp_of_pictures` is without the files' containers."""
        summary: dict[str, Any] = {
            "format": self._codec.name,
            "quality": self._quality,
            "encoder": self._codec.version(),
            "images": self._images,
            "bpp": self.bpp,
            "bpp_of_pictures": self._picture_bits / self._pixels,
        }
        write_json(output / "rate.json", summary)


def nearest_quality(codec: ConventionalCodec, paths: Iterable[Path], rate: float) -> int:
    """The quality at which images, together, come nearest to a rate in bits per pixel.

    Images that cannot be read do not count.

    Raises:
        CdlError: if none can, or the rate is not positive.
    """
    if not rate > 0:
        raise CdlError(f"rate {rate} is not a positive number of bits per pixel")
    paths = list(paths)  # read once per quality

    @cache
    def rate_at(quality: int) -> float:
        recoding = Recoding(codec, quality)
        for path in tqdm(paths, desc=f"quality {quality}", leave=False, unit="image"):
            try:
                recoding.write(path)
            except (CdlError, OSError):
                continue
        return recoding.bpp

    above = bisect_left(codec.qualities, rate, key=rate_at)
    nearest = codec.qualities[max(above - 1, 0) : above + 1]
    return min(nearest, key=lambda quality: abs(rate_at(quality) - rate))


def _encode_jpeg(image: Image.Image, quality: int) -> bytes:
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=quality, optimize=True)  # Huffman tables of its own
    return content.getvalue()


def _decode_jpeg(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def _jpeg_version() -> str:
    turbo = features.version("libjpeg_turbo")
    return f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version('jpg')}"


def _pillow_heif() -> ModuleType:
    with imports_of_extra("heif"):
        import pillow_heif
    return pillow_heif


def _encode_heif(image: Image.Image, quality: int) -> bytes:
    content = io.BytesIO()
    _pillow_heif().from_pillow(image).save(content, quality=quality)
    return content.getvalue()


def _decode_heif(content: bytes) -> Image.Image:
    return _pillow_heif().open_heif(io.BytesIO(content)).to_pillow()


def _heif_version() -> str:
    info = _pillow_heif().libheif_info()
    if not info["HEIF"]:
        raise CdlError("pillow-heif has no HEVC encoder here: install one of its wheels")
    return f"libheif {info['libheif']}, {info['HEIF']}"


def _heif_picture_bytes(content: bytes) -> int:
    """Of the media data, a box (ISO/IEC 14496-12) behind some that describe it."""
    start = found = 0
    while start < len(content):
        size = int.from_bytes(content[start : start + 4], "big") or len(content) - start
        if content[start + 4 : start + 8] == b"mdat":
            found += size - 8
        start += size
    return found


def _encode_bpg(image: Image.Image, quality: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        source, coded = Path(folder) / "image.png", Path(folder) / "image.bpg"
        image.save(source)
        _run("bpgenc", "-q", str(quality), "-o", str(coded), str(source))
        return coded.read_bytes()


def _decode_bpg(content: bytes) -> Image.Image:
    with tempfile.TemporaryDirectory() as folder:
        coded, decoded = Path(folder) / "image.bpg", Path(folder) / "image.png"
        coded.write_bytes(content)
        _run("bpgdec", "-o", str(decoded), str(coded))
        return Image.open(decoded).convert("RGB")


def _bpg_version() -> str:
    for name in ("bpgenc", "bpgdec"):
        if shutil.which(name) is None:
            raise CdlError(f"there is no program {name} on PATH: install libbpg, or use heif")
    said = subprocess.run(["bpgenc", "-h"], capture_output=True, encoding="utf-8", errors="replace")
    return (said.stdout + said.stderr).partition("\n")[0].strip()


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        raise CdlError(f"{words[0]} failed: {done.stderr.strip() or done.returncode}")


FORMATS = {
    codec.name: codec
    for codec in (
        ConventionalCodec("jpeg", range(1, 96), _encode_jpeg, _decode_jpeg, _jpeg_version),
        ConventionalCodec(
            "heif", range(101), _encode_heif, _decode_heif, _heif_version, _heif_picture_bytes
        ),
        ConventionalCodec("bpg", range(51, -1, -1), _encode_bpg, _decode_bpg, _bpg_version),
    )
}
