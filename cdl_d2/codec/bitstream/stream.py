"""Bitstream of one compressed image: the header of its file and the entropy coder's strings."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cdl_d2.codec.bitstream.header import OWN_CODEC, format_header, read_header
from cdl_d2.codec.entropy.autoregressive_coder import COMPRESSAI
from cdl_d2.codec.latent import HYPERPRIOR_CELLS, CodecIdentity, coded_cells, coded_size
from cdl_d2.codec.registry import CODEC_NAME, WIRE_NAMES
from cdl_d2.errors import BitstreamError, CdlError
from cdl_d2.files import write_atomically

SUFFIX = ".cdlz"
ENHANCEMENT_SUFFIXES = (f".enhancement{SUFFIX}", f".rest{SUFFIX}")  # the second is read only

BASE, ENHANCEMENT = "base", "enhancement"  # codings of the two layers of an image


@dataclass(frozen=True)
class Bitstream:
    """One compressed image.

    Attributes:
        codec: identity of the codec that wrote it; its latents are dequantized.
        image_size: (H, W) in pixels.
        strings: the entropy coder's strings: y; z, with a hyperprior; g, with a global vector.
        coding: `exact`; `compressai` for strings that CompressAI wrote; `base` or `enhancement`
            for one of two layers, whose first string is the mask of its channels.
        checksum: CRC-32 of the decoded symbols; None for `compressai`, required otherwise.
        scale_floor: scale floor of the string of y, 0 to 31; 0 unless coded `exact`.
        padding: (top, left), rows above and columns left of the image on the coded grid, in
            pixels. The padding below and to the right follows from image_size.
        original_size: (H, W) in pixels of the image before it was resized for coding, in which
            results are given; None if it was not resized.
        file_bytes: size of the file that it was read from; None for a new one.

    Raises:
        BitstreamError: if the padding leaves no space for the image.
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
            object.__setattr__(self, "original_size", None)  # not written to the header
        if not any(self.padding):
            return
        sides = zip(self.padding, self.image_size, self.coded_size, strict=True)
        if not all(0 <= before <= coded - side for before, side, coded in sides):
            raise BitstreamError(
                f"an image of {self.image_size} pixels, coded as {self.coded_size}, cannot begin "
                f"at {self.padding}"
            )

    @cached_property
    def coded_size(self) -> tuple[int, int]:
        """(H', W') in pixels, with the padding to multiples of 64."""
        return coded_size(self.image_size)

    @property
    def result_size(self) -> tuple[int, int]:
        """(H, W) in pixels of the original image, in which results are given."""
        return self.original_size or self.image_size

    @property
    def bits(self) -> int:
        """Bits of its file."""
        return 8 * (self.file_bytes or len(self.to_bytes()))

    def to_bytes(self) -> bytes:
        """Return the content of a file.

        Raises:
            CdlError: for an image larger than from_bytes accepts, or a codec whose weights are
                unknown, as in files of CompressAI (`Codec.identify` fills them in).
        """
        if not self.codec.weights:
            raise CdlError(f"a bitstream names the weights of its codec, {self.codec} does not")
        name, strings = self.codec.name, self.strings
        number = next((n for n, codec in WIRE_NAMES.items() if codec == name), OWN_CODEC)
        if number == OWN_CODEC:
            strings = (name.encode(), *strings)
        return format_header(self, number, strings) + b"".join(strings)

    @classmethod
    def from_bytes(cls, content: bytes) -> Bitstream:
        """Read the content of a file; `Codec.decompress` decodes it to a latent.

        Raises:
            BitstreamError: if it is not a bitstream, is corrupted, has another version or more
                pixels than latent.max_pixels.
        """
        fields, table, start = read_header(content)
        strings = _read_strings(content, start, table)
        if not fields["codec"].name:
            name, *strings = _read_codec_name(strings), *strings[1:]
            fields["codec"] = replace(fields["codec"], name=name)
        if fields["coding"] == COMPRESSAI:
            fields["checksum"] = fields["checksum"] or None
        return cls(strings=tuple(strings), file_bytes=len(content), **fields)

    @classmethod
    def from_compressai(
        cls,
        codec: CodecIdentity,
        coded: dict[str, Any],
        image_size: tuple[int, int],
        padding: tuple[int, int, int, int] | None = None,
    ) -> Bitstream:
        """Make a bitstream of what a CompressAI network's `compress` returns for one image.

        Args:
            codec: identity of the codec with this network, dequantized latents.
            coded: `strings` and `shape`, as CompressAI returns them.
            image_size: (H, W) of the image before it was padded to multiples of 64.
            padding: (left, right, top, bottom) in pixels, as `compute_padding` of CompressAI
                returns and `torch.nn.functional.pad` takes it; None for right and bottom only.

        Raises:
            CdlError: if there is not exactly one image, or it was padded to another size.
        """
        if any(len(strings) != 1 for strings in coded["strings"]):
            raise CdlError("CompressAI coded several images at once: give one at a time")
        left, right, top, bottom = padding or (0, 0, 0, 0)
        strings = tuple(s[0] for s in coded["strings"])
        stream = cls(codec, image_size, strings, coding=COMPRESSAI, padding=(top, left))
        padded = (top + image_size[0] + bottom, left + image_size[1] + right)
        if padding is not None and padded != stream.coded_size:
            raise CdlError(
                f"a padding (left, right, top, bottom) of {tuple(padding)} makes {padded} pixels "
                f"of {image_size}, not the next multiples of 64, {stream.coded_size}"
            )
        grid = coded_cells(image_size)
        shape = grid if len(strings) == 1 else tuple(s // HYPERPRIOR_CELLS for s in grid)
        if tuple(coded["shape"]) != shape:
            raise CdlError(
                f"a coded shape of {tuple(coded['shape'])} is not that of an image of "
                f"{image_size}, {shape}: was it padded to multiples of 64?"
            )
        return stream

    def save(self, path: str | Path) -> None:
        """Write a file atomically."""
        with write_atomically(path) as temporary:
            temporary.write_bytes(self.to_bytes())

    @classmethod
    def load(cls, path: str | Path) -> Bitstream:
        """Read a file.

        Raises:
            FileNotFoundError: if it does not exist.
            BitstreamError: as `from_bytes`, with the name of the file.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no bitstream {path}")
        try:
            return cls.from_bytes(path.read_bytes())
        except BitstreamError as error:
            raise BitstreamError(f"{path}: {error}") from error


def _read_strings(
    content: bytes, start: int, table: Sequence[tuple[int, int]]
) -> tuple[bytes, ...]:
    """Return the strings that follow a header, given the length and CRC-32 of each."""
    strings = []
    size = start + sum(length for length, _ in table)
    if size != len(content):
        raise BitstreamError(f"truncated or corrupted: {len(content)} of {size} bytes")
    for length, crc in table:
        string = content[start : start + length]
        if zlib.crc32(string) != crc:
            raise BitstreamError("corrupted: the checksum of a string does not match")
        strings.append(string)
        start += length
    return tuple(strings)


def _read_codec_name(strings: tuple[bytes, ...]) -> str:
    name = strings[0].decode("ascii", "replace") if strings else ""
    if not CODEC_NAME.fullmatch(name):
        raise BitstreamError(f"corrupted: {name[:60]!r} is not the name of a codec")
    return name


def enhancement_paths(path: Path) -> list[Path]:
    """Return where the enhancement layer of a base layer can be; it is written to the first."""
    return [path.with_suffix(suffix) for suffix in ENHANCEMENT_SUFFIXES]


def base_path(path: Path) -> Path | None:
    """Return the path of the base layer of an enhancement layer; None for any other file."""
    for suffix in ENHANCEMENT_SUFFIXES:
        if path.name.endswith(suffix):
            return path.with_name(path.name.removesuffix(suffix) + SUFFIX)
    return None
