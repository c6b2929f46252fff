"""Bitstream of one compressed image: what the header of its file says, see header.py, and the
strings of the entropy coder."""

from __future__ import annotations

import zlib
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

from cdl_d2.codec.architectures import OWN_NAME
from cdl_d2.codec.bitstream.header import CODECS, Header, read_header
from cdl_d2.codec.entropy.autoregressive import COMPRESSAI
from cdl_d2.codec.latent import (
    HYPERPRIOR_CELLS,
    STRIDE,
    CodecIdentity,
    coded_cells,
)
from cdl_d2.errors import BitstreamError, CdlError
from cdl_d2.files import write_atomically

SUFFIX = ".cdlz"
REST_SUFFIX = f".rest{SUFFIX}"  # of a second layer

# Codings of the two layers of layers.py, beside those of a whole latent.
SELECTED, REST = "selected", "rest"


@dataclass(frozen=True)
class Bitstream:
    """One compressed image.

    Attributes:
        codec: what wrote it; the quantization of its latents is always `dequantized`.
        image_size: (H, W) in pixels.
        strings: of the entropy coder: y; with a hyperprior, z; with a global vector, g.
        coding: `exact`, or `compressai` for what CompressAI itself wrote, see autoregressive.py;
            `selected` or `rest` for a layer, see layers.py, whose strings begin with a mask.
        checksum: of the symbols that the strings decode to (Quantized.checksum), without which a
            stream is not decoded; None for `compressai`.
        scale_floor: of the string of y, 0 to 31, see latent_coder.py; 0 unless coded `exact`.
        padding: rows above and columns left of the image on the coded grid, in pixels; what is
            padded below and to the right follows from image_size.
        original_size: (H, W) in pixels of the image before it was resized for coding; None if it
            was not. Results are in its pixels.
        file_bytes: of a file of another format that it was read from, see compressai_file.py.

    Raises:
        BitstreamError: if the padding leaves no place for the image.
    """

    codec: CodecIdentity
    image_size: tuple[int, int]
    strings: tuple[bytes, ...]
    _: KW_ONLY
    coding: str = "exact"
    checksum: int | None = None
    scale_floor: int = 0
    padding: tuple[int, int] = (0, 0)
    original_size: tuple[int, int] | None = None
    file_bytes: int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.original_size == self.image_size:
            object.__setattr__(self, "original_size", None)  # a file says it once
        sides = zip(self.padding, self.image_size, self.coded_size, strict=True)
        if not all(0 <= before <= coded - side for before, side, coded in sides):
            raise BitstreamError(
                f"an image of {self.image_size} pixels, coded as {self.coded_size}, cannot begin "
                f"at {self.padding}"
            )

    @property
    def coded_size(self) -> tuple[int, int]:
        """(H', W') in pixels, with the padding to multiples of 64."""
        height, width = coded_cells(self.image_size)
        return height * STRIDE, width * STRIDE

    @property
    def result_size(self) -> tuple[int, int]:
        """(H, W) in pixels of the original image, in which results are given."""
        return self.original_size or self.image_size

    @property
    def bits(self) -> int:
        """Of the file that it was read from, or that `save` writes."""
        return 8 * (self.file_bytes or len(self.to_bytes()))

    def to_bytes(self) -> bytes:
        """The content of a file.

        Raises:
            CdlError: for a larger image than from_bytes accepts; if the weights that wrote the
                stream are not known, see Codec.identify.
        """
        if not self.codec.weights:
            raise CdlError(f"a bitstream says who wrote it, not {self.codec}: see Codec.identify")
        name, strings = self.codec.name, self.strings
        known = name in CODECS.values()
        if not known:
            strings = (name.encode(), *strings)
        header = Header(
            codec=name if known else None,
            quality=self.codec.quality,
            metric=self.codec.metric,
            weights=self.codec.weights,
            coding=self.coding,
            scale_floor=self.scale_floor,
            image_size=self.image_size,
            coded_size=self.coded_size,
            checksum=self.checksum or 0,
            padding=self.padding,
            original_size=self.original_size,
            strings=tuple((len(string), zlib.crc32(string)) for string in strings),
        )
        return header.to_bytes() + b"".join(strings)

    @classmethod
    def from_bytes(cls, content: bytes) -> Bitstream:
        """Read the content of a file; `Codec.decompress` makes a latent of it.

        Raises:
            BitstreamError: if it is no bitstream, of another version, damaged, or of more pixels
                than latent.max_pixels.
        """
        header, start = read_header(content)
        name, strings = header.codec, _strings(content, start, header.strings)
        if name is None:
            name, *strings = _own_name(strings), *strings[1:]
        unknown = None if header.coding == COMPRESSAI else 0
        stream = cls(
            CodecIdentity(name, header.quality, header.metric, "dequantized", header.weights),
            header.image_size,
            tuple(strings),
            coding=header.coding,
            checksum=header.checksum or unknown,
            scale_floor=header.scale_floor,
            padding=header.padding,
            original_size=header.original_size,
        )
        if stream.coded_size != header.coded_size:
            raise BitstreamError(
                f"an image of {stream.image_size} pixels is not coded as {header.coded_size}"
            )
        return stream

    @classmethod
    def from_compressai(
        cls,
        codec: CodecIdentity,
        coded: dict[str, Any],
        image_size: tuple[int, int],
        padding: tuple[int, int, int, int] | None = None,
    ) -> Bitstream:
        """What CompressAI's own `compress` gave for one image.

        Args:
            codec: the codec whose network it was, of quantization `dequantized`.
            coded: `strings` and `shape`, as CompressAI returns them.
            image_size: (H, W) of the image before it was padded to multiples of 64.
            padding: (left, right, top, bottom) in pixels, as `compute_padding` of CompressAI gives
                it and `torch.nn.functional.pad` takes it; None for the right and the bottom only.

        Raises:
            CdlError: if there is not exactly one image, or it was padded to another size.
        """
        if any(len(strings) != 1 for strings in coded["strings"]):
            raise CdlError("CompressAI coded several images at once: give one at a time")
        left, right, top, bottom = padding or (0, 0, 0, 0)
        strings, place = tuple(s[0] for s in coded["strings"]), (top, left)
        stream = cls(codec, image_size, strings, coding=COMPRESSAI, padding=place)
        padded = (top + image_size[0] + bottom, left + image_size[1] + right)
        if padding is not None and padded != stream.coded_size:
            raise CdlError(
                f"a padding (left, right, top, bottom) of {tuple(padding)} makes {padded} pixels "
                f"of {image_size}, not the next multiples of 64, {stream.coded_size}"
            )
        cells = coded_cells(image_size)
        latent = cells if len(stream.strings) == 1 else tuple(s // HYPERPRIOR_CELLS for s in cells)
        if tuple(coded["shape"]) != latent:
            raise CdlError(
                f"a coded shape of {tuple(coded['shape'])} is not that of an image of "
                f"{image_size}, {latent}: was it padded to multiples of 64?"
            )
        return stream

    def save(self, path: str | Path) -> None:
        """Write a file, whole or not at all."""
        with write_atomically(path) as temporary:
            temporary.write_bytes(self.to_bytes())

    @classmethod
    def load(cls, path: str | Path) -> Bitstream:
        """Read a file.

        Raises:
            FileNotFoundError: if there is none.
            BitstreamError: see from_bytes; it names the file.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no bitstream {path}")
        try:
            return cls.from_bytes(path.read_bytes())
        except BitstreamError as error:
            raise BitstreamError(f"{path}: {error}") from error


def _number(table: dict[int, str], name: str) -> int | None:
    """The number of a name in files."""
    return next((number for number, known in table.items() if known == name), None)


def _strings(
    content: bytes, start: int, expected: tuple[tuple[int, int], ...]
) -> tuple[bytes, ...]:
    """Return the strings behind a header, whose lengths and CRC-32 are expected."""
    strings = []
    announced = start + sum(length for length, _ in expected)
    if announced != len(content):
        raise BitstreamError(f"truncated or damaged: {len(content)} bytes of {announced} announced")
    for length, crc in expected:
        string = content[start : start + length]
        if zlib.crc32(string) != crc:
            raise BitstreamError("damaged: the checksum of a string does not match")
        strings.append(string)
        start += length
    return tuple(strings)


def _own_name(strings: tuple[bytes, ...]) -> str:
    name = strings[0].decode("ascii", "replace") if strings else ""
    if not OWN_NAME.fullmatch(name):
        raise BitstreamError(f"damaged: {name[:60]!r} is no name of a codec")
    return name


def rest_of(path: Path) -> Path:
    """Where the second layer of a first one is."""
    return path.with_suffix(REST_SUFFIX)
