"""The file of one compressed image: a small header around the strings of the entropy coder.

```
 4 magic "CDLZ"    1 format version       1 codec           1 quality       1 metric
 8 fingerprint of the codec's weights     1 coding (below)  1 number of strings, S
 8 image H, W      8 coded H, W (pixels)  4 CRC-32 of the decoded symbols
 2 top, left (of version 2 only): the padding above and left of the image, in pixels
 S x (4 length     4 CRC-32)              4 CRC-32 of all above
   the strings
```

The lower three bits of the coding are its number, the upper five the scale floor: channels whose
scales stay below it are zero and not in the string of y (entropy/latent_coder.py). Files of
version 0.1.0 have floor 0: all channels are in it.

Version 2 is written of images that are padded above or to the left, as CompressAI's own tools do;
of all others, which are padded on the right and at the bottom, version 1.

Coded by CompressAI itself, a stream has 0 for the CRC-32 of its symbols, which nobody took.

The quality of a variable-rate codec is the rate at which it coded. A codec that a user brought has
the number 255, and its name is the first of the strings.

Little endian; 58 bytes with two strings. Every byte is covered by a checksum, and the sizes are
checked, before anything is decoded or allocated.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdl_d2.codec.architectures import (
    COMPRESSAI_ARCHITECTURES,
    GENERATIVE,
    METRICS,
    OWN_NAME,
    TINY_PREFIX,
    VARIABLE_RATE,
)
from cdl_d2.codec.entropy.autoregressive import CODINGS, COMPRESSAI
from cdl_d2.codec.latent import (
    HYPERPRIOR_CELLS,
    STRIDE,
    CodecIdentity,
    check_pixels,
    coded_cells,
)
from cdl_d2.errors import BitstreamError, CdlError
from cdl_d2.files import write_atomically

SUFFIX = ".cdlz"
REST_SUFFIX = f".rest{SUFFIX}"  # of a second layer

# Codings of the two layers of layers.py, beside those of a whole latent.
SELECTED, REST = "selected", "rest"

MAGIC = b"CDLZ"
_VERSION, _PADDED_VERSION = 1, 2
_HEAD = struct.Struct("<4sBBBB8sBBIIIII")
_PADDING = struct.Struct("<BB")
_STRING = struct.Struct("<II")
_CRC = struct.Struct("<I")
_CODINGS = (*CODINGS, SELECTED, REST)  # append only, up to 8
_FLOOR = 8  # of a coding's byte: its number plus this many times the scale floor
_CODECS = [  # append only
    prefix + name
    for names in (COMPRESSAI_ARCHITECTURES, GENERATIVE, VARIABLE_RATE)
    for prefix in ("", TINY_PREFIX)
    for name in names
]
_OWN_CODEC = 255  # one that a user brought: its name is the first string


@dataclass(frozen=True)
class Bitstream:
    """One compressed image.

    Attributes:
        codec: what wrote it; the meaning of its latents is always `decoded`.
        image_size: (H, W) in pixels.
        strings: of the entropy coder: y; with a hyperprior, z; with a global vector, g.
        coding: `exact`, or `compressai` for what CompressAI itself wrote, see autoregressive.py;
            `selected` or `rest` for a layer, see layers.py, whose strings begin with a mask.
        checksum: of the symbols that the strings decode to (Quantized.checksum), without which a
            stream is not decoded; None for `compressai`.
        scale_floor: of the string of y, 0 to 31, see latent_coder.py; 0 unless coded `exact`.
        padding: rows above and columns left of the image on the coded grid, in pixels; what is
            padded below and to the right follows from image_size.
        file_bytes: of a file of another format that it was read from, see compressai_file.py.

    Raises:
        BitstreamError: if the padding leaves no place for the image.
    """

    codec: CodecIdentity
    image_size: tuple[int, int]
    strings: tuple[bytes, ...]
    coding: str = "exact"
    checksum: int | None = None
    scale_floor: int = 0
    padding: tuple[int, int] = (0, 0)
    file_bytes: int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
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
        check_pixels(self.image_size)
        padded = any(self.padding)
        name, strings = self.codec.name, self.strings
        if name not in _CODECS:
            strings = (name.encode(), *strings)
        head = _HEAD.pack(
            MAGIC,
            _PADDED_VERSION if padded else _VERSION,
            _CODECS.index(name) if name in _CODECS else _OWN_CODEC,
            self.codec.quality,
            METRICS.index(self.codec.metric),
            bytes.fromhex(self.codec.weights),
            _CODINGS.index(self.coding) + _FLOOR * self.scale_floor,
            len(strings),
            *self.image_size,
            *self.coded_size,
            self.checksum or 0,
        )
        head += _PADDING.pack(*self.padding) if padded else b""
        head += b"".join(_STRING.pack(len(s), zlib.crc32(s)) for s in strings)
        return head + _CRC.pack(zlib.crc32(head)) + b"".join(strings)

    @classmethod
    def from_bytes(cls, content: bytes, max_pixels: int | None = None) -> Bitstream:
        """Read the content of a file; `Codec.decompress` makes a latent of it.

        Args:
            max_pixels: the largest coded image to accept; default see latent.max_pixels.

        Raises:
            BitstreamError: if it is no bitstream, of another version, damaged, or too large.
        """
        if content[: len(MAGIC)] != MAGIC:
            raise BitstreamError(f"not a bitstream: it starts with {content[:4]!r}, not {MAGIC!r}")
        if len(content) < _HEAD.size:
            raise BitstreamError(f"truncated: {len(content)} bytes are no whole header")
        _, version, codec, quality, metric, weights, coding, count, *numbers = _HEAD.unpack_from(
            content
        )
        if version not in (_VERSION, _PADDED_VERSION):
            raise BitstreamError(
                f"format version {version} is not {_VERSION} or {_PADDED_VERSION}: update cdl_d2"
            )
        padded = version == _PADDED_VERSION
        strings_at = _HEAD.size + (_PADDING.size if padded else 0)
        head_size = strings_at + count * _STRING.size
        if len(content) < head_size + _CRC.size:
            raise BitstreamError(f"truncated: {len(content)} bytes are no whole header")
        if _CRC.unpack_from(content, head_size)[0] != zlib.crc32(content[:head_size]):
            raise BitstreamError("damaged: the checksum of the header does not match")
        image_size, coded_size, checksum = tuple(numbers[:2]), tuple(numbers[2:4]), numbers[4]
        scale_floor, coding = divmod(coding, _FLOOR)
        for what, value, known in (
            ("codec", codec, _CODECS),
            ("metric", metric, METRICS),
            ("coding", coding, _CODINGS),
        ):
            if value >= len(known) and (what, value) != ("codec", _OWN_CODEC):
                raise BitstreamError(f"{what} number {value} is unknown: update cdl_d2")
        if scale_floor and _CODINGS[coding] != "exact":
            raise BitstreamError(f"coding {_CODINGS[coding]!r} has no scale floor: update cdl_d2")
        try:
            check_pixels(image_size, max_pixels)
        except CdlError as error:
            raise BitstreamError(str(error)) from error
        strings = _strings(content, strings_at, head_size, count)
        if codec == _OWN_CODEC:
            name, *strings = _own_name(strings), *strings[1:]
        else:
            name = _CODECS[codec]
        stream = cls(
            codec=CodecIdentity(name, quality, METRICS[metric], "decoded", weights.hex()),
            image_size=image_size,
            strings=tuple(strings),
            coding=_CODINGS[coding],
            checksum=checksum or (None if _CODINGS[coding] == COMPRESSAI else 0),
            scale_floor=scale_floor,
            padding=_PADDING.unpack_from(content, _HEAD.size) if padded else (0, 0),
        )
        if stream.coded_size != coded_size:
            raise BitstreamError(f"an image of {image_size} pixels is not coded as {coded_size}")
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
            codec: the codec whose network it was, of meaning `decoded`.
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
    def load(cls, path: str | Path, max_pixels: int | None = None) -> Bitstream:
        """Read a file.

        Raises:
            FileNotFoundError: if there is none.
            BitstreamError: see from_bytes; it names the file.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no bitstream {path}")
        try:
            return cls.from_bytes(path.read_bytes(), max_pixels)
        except BitstreamError as error:
            raise BitstreamError(f"{path}: {error}") from error


def _strings(content: bytes, start: int, head_size: int, count: int) -> tuple[bytes, ...]:
    expected = [_STRING.unpack_from(content, start + i * _STRING.size) for i in range(count)]
    start, strings = head_size + _CRC.size, []
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
