"""Conventional codecs as baselines: images as they look after JPEG, HEVC or BPG compression."""

# CompressAI's `utils.bench.codecs` and `utils.find_close` do not fit here: they end the process if
# a program fails, search the quality of one image instead of a folder, keep JPEG's default Huffman
# tables, code BPG at 4:4:4 by default and have no HEIF.

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
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
    """A format of image files, with 4:2:0 chroma subsampling.

    Attributes:
        name: name of the format.
        qualities: in the order of file size, smallest first.
        encode: function from an RGB image and a quality to the content of a file.
        decode: function from the content back to an image.
        version: function that names the encoder; raises CdlError if it is not installed.
        picture_bytes: function that counts the bytes of a file's content without its container.
    """

    name: str
    qualities: Sequence[int]
    encode: Callable[[Image.Image, int], bytes]
    decode: Callable[[bytes], Image.Image]
    version: Callable[[], str]
    picture_bytes: Callable[[bytes], int] = len

    def check(self, quality: int | None) -> None:
        """Raise CdlError if the encoder is not installed or does not have the quality."""
        self.version()
        if quality is not None and quality not in self.qualities:
            low, high = min(self.qualities), max(self.qualities)
            raise CdlError(f"quality {quality} is not one of {low}..{high} for {self.name}")


def decoded_paths(images: Path, output: Path) -> dict[Path, Path]:
    """Return the PNG file for the reconstruction of each image under a folder.

    Raises:
        NotADirectoryError, CdlError: as find_images; CdlError if the output is not an empty folder,
            or two files would have the same name.
    """
    check_empty_folder(output)
    names = {path: path.relative_to(images) for path in find_images(images)}
    return output_paths(names, output, (".png",))


class Reconstructor:
    """Writes reconstructions of images, and counts the bits of their compressed files."""

    def __init__(self, codec: ConventionalCodec, quality: int):
        self._codec, self._quality = codec, quality
        self._images = self._pixels = self._bits = self._picture_bits = 0

    def write(self, path: Path, target: Path | None = None) -> None:
        """Compress an image, and write its reconstruction if there is a target.

        Raises:
            CdlError, OSError: if a file cannot be read, compressed or written.
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
        """Bits per pixel of all files; raises CdlError if there are none."""
        if not self._pixels:
            raise CdlError("no image could be coded")
        return self._bits / self._pixels

    def save(self, output: Path) -> None:
        """Write `rate.json`; its `bpp_of_pictures` excludes the files' containers."""
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
    """Return the quality at which images together are nearest to a rate in bits per pixel.

    Images that cannot be read are skipped.

    Raises:
        CdlError: if no image can be read, or the rate is not positive.
    """
    if not rate > 0:
        raise CdlError(f"rate {rate} is not a positive number of bits per pixel")
    paths = list(paths)  # read once per quality

    @cache
    def rate_at(quality: int) -> float:
        reconstructor = Reconstructor(codec, quality)
        for path in tqdm(paths, desc=f"quality {quality}", leave=False, unit="image"):
            try:
                reconstructor.write(path)
            except (CdlError, OSError):
                continue
        return reconstructor.bpp

    above = bisect_left(codec.qualities, rate, key=rate_at)
    candidates = codec.qualities[max(above - 1, 0) : above + 1]
    return min(candidates, key=lambda quality: abs(rate_at(quality) - rate))


def _encode_with_pillow(image: Image.Image, quality: int, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, quality=quality, **options)
    return content.getvalue()


def _decode_with_pillow(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def _jpeg_version() -> str:
    turbo = features.version("libjpeg_turbo")
    return f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version('jpg')}"


def _heif_version() -> str:
    """Register HEIF with Pillow, and return the encoder's version."""
    with imports_of_extra("heif"):
        import pillow_heif
    pillow_heif.register_heif_opener()
    info = pillow_heif.libheif_info()
    if not info["HEIF"]:
        raise CdlError("pillow-heif has no HEVC encoder here: install one of its wheels")
    return f"libheif {info['libheif']}, {info['HEIF']}"


def _heif_picture_bytes(content: bytes) -> int:
    """Return the bytes of the media data boxes (ISO/IEC 14496-12)."""
    start = total = 0
    while start < len(content):
        size = int.from_bytes(content[start : start + 4], "big") or len(content) - start
        if content[start + 4 : start + 8] == b"mdat":
            total += size - 8
        start += size
    return total


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
    run = subprocess.run(["bpgenc", "-h"], capture_output=True, encoding="utf-8", errors="replace")
    return (run.stdout + run.stderr).partition("\n")[0].strip()


def _run(*command: str) -> None:
    run = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    if run.returncode:
        raise CdlError(f"{command[0]} failed: {run.stderr.strip() or run.returncode}")


FORMATS = {
    codec.name: codec
    for codec in (
        ConventionalCodec(
            "jpeg",
            range(1, 96),
            partial(_encode_with_pillow, format="JPEG", optimize=True),  # own Huffman tables
            _decode_with_pillow,
            _jpeg_version,
        ),
        ConventionalCodec(
            "heif",
            range(101),
            partial(_encode_with_pillow, format="HEIF"),
            _decode_with_pillow,
            _heif_version,
            _heif_picture_bytes,
        ),
        ConventionalCodec("bpg", range(51, -1, -1), _encode_bpg, _decode_bpg, _bpg_version),
    )
}
