"""Header of a bitstream file.

```
 4 magic "CDLZ"    1 format version       1 codec           1 quality       1 metric
 8 fingerprint of the codec's weights     1 coding (below)  1 number of strings, S
 8 image H, W      8 coded H, W (pixels)  4 CRC-32 of the decoded symbols
 2 top, left (versions 2 and 3): padding above and left of the image, in pixels
 8 original H, W (version 3): size of the image before it was resized for coding, in pixels
 S x (4 length     4 CRC-32)              4 CRC-32 of all above
   the strings
```

Little endian; 58 bytes with two strings in version 1. All bytes are covered by checksums, and sizes
are checked before anything is decoded or allocated.

Version: the lowest that has the necessary fields. 1: the image is padded right and below only;
2: it is padded above or to the left, as by CompressAI's tools; 3: it was resized before coding.

Coding: the lower three bits are its number, the upper five the scale floor. Channels whose scales
are below the floor are zero and not in the string of y; with floor 0 all channels are in it.

Symbol checksum: 0 for strings that CompressAI itself wrote.

Codec: 255 for one without a number here, such as a user's own; its name is then the first string.
The quality of a variable-rate codec is the rate at which it coded.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from cdl_d2.codec.latent import check_pixels, coded_size
from cdl_d2.codec.registry import WIRE_NAMES
from cdl_d2.errors import BitstreamError, CdlError

MAGIC = b"CDLZ"
PLAIN, PADDED, RESIZED = 1, 2, 3  # format versions
OWN_CODEC = 255

# Numbers in files: they never change. Those of codecs are in the registry.
METRICS = {0: "mse", 1: "ms-ssim"}
CODINGS = {0: "compressai", 1: "exact", 2: "base", 3: "enhancement"}  # up to 7

_HEAD = struct.Struct("<4sBBBB8sBBIIIII")
_PADDING = struct.Struct("<BB")
_ORIGINAL = struct.Struct("<II")
_STRING = struct.Struct("<II")
_CRC = struct.Struct("<I")
_FLOOR = 8  # of a coding's byte: its number plus this many times the scale floor


@dataclass(frozen=True, kw_only=True)
class Header:
    """Contents of a header.

    Attributes:
        codec: name of the codec; None if it has no number, when the name is the first string.
        quality: quality of the codec.
        metric: metric that the codec was trained for.
        weights: fingerprint of the codec's weights, 16 hexadecimal digits.
        coding: one of CODINGS.
        scale_floor: 0 to 31.
        image_size: (H, W) of the coded image in pixels.
        coded_size: (H, W) with padding to multiples of 64.
        checksum: CRC-32 of the decoded symbols.
        padding: (top, left) in pixels.
        original_size: (H, W) of the image before it was resized; None if it was not.
        strings: length and CRC-32 of each string.
    """

    codec: str | None
    quality: int
    metric: str
    weights: str
    coding: str
    scale_floor: int
    image_size: tuple[int, int]
    coded_size: tuple[int, int]
    checksum: int
    padding: tuple[int, int]
    original_size: tuple[int, int] | None
    strings: tuple[tuple[int, int], ...]

    def to_bytes(self) -> bytes:
        """Return the bytes before the strings.

        Raises:
            CdlError: for an image that is larger than read_header accepts.
        """
        for size in filter(None, (self.image_size, self.original_size)):
            check_pixels(size)
        version = RESIZED if self.original_size else PADDED if any(self.padding) else PLAIN
        head = _HEAD.pack(
            MAGIC,
            version,
            OWN_CODEC if self.codec is None else _number(WIRE_NAMES, self.codec),
            self.quality,
            _number(METRICS, self.metric),
            bytes.fromhex(self.weights),
            _number(CODINGS, self.coding) + _FLOOR * self.scale_floor,
            len(self.strings),
            *self.image_size,
            *self.coded_size,
            self.checksum,
        )
        head += _PADDING.pack(*self.padding) if version >= PADDED else b""
        head += _ORIGINAL.pack(*self.original_size) if version >= RESIZED else b""
        head += b"".join(_STRING.pack(*string) for string in self.strings)
        return head + _CRC.pack(zlib.crc32(head))


def read_header(content: bytes) -> tuple[Header, int]:
    """Read the header of a file.

    Returns:
        the header, and its size in bytes.

    Raises:
        BitstreamError: if it is not a header, is corrupted, has another version or more pixels than
            latent.max_pixels.
    """
    if content[: len(MAGIC)] != MAGIC:
        raise BitstreamError(f"not a bitstream: it starts with {content[:4]!r}, not {MAGIC!r}")
    truncated = BitstreamError(f"truncated: {len(content)} bytes are less than a header")
    if len(content) < _HEAD.size:
        raise truncated
    _, version, codec, quality, metric, weights, coding, count, *numbers = _HEAD.unpack_from(
        content
    )
    if version not in (PLAIN, PADDED, RESIZED):
        raise BitstreamError(
            f"format version {version} is not one of {PLAIN}..{RESIZED}: update cdl_d2"
        )
    original_at = _HEAD.size + (_PADDING.size if version >= PADDED else 0)
    strings_at = original_at + (_ORIGINAL.size if version >= RESIZED else 0)
    crc_at = strings_at + count * _STRING.size
    if len(content) < crc_at + _CRC.size:
        raise truncated
    if _CRC.unpack_from(content, crc_at)[0] != zlib.crc32(content[:crc_at]):
        raise BitstreamError("corrupted: the checksum of the header does not match")
    scale_floor, coding = divmod(coding, _FLOOR)
    header = Header(
        codec=None if codec == OWN_CODEC else _name(WIRE_NAMES, "codec", codec),
        quality=quality,
        metric=_name(METRICS, "metric", metric),
        weights=weights.hex(),
        coding=_name(CODINGS, "coding", coding),
        scale_floor=scale_floor,
        image_size=tuple(numbers[:2]),
        coded_size=tuple(numbers[2:4]),
        checksum=numbers[4],
        padding=_PADDING.unpack_from(content, _HEAD.size) if version >= PADDED else (0, 0),
        original_size=_ORIGINAL.unpack_from(content, original_at) if version >= RESIZED else None,
        strings=tuple(_STRING.iter_unpack(content[strings_at:crc_at])),
    )
    _check(header)
    return header, crc_at + _CRC.size


def _number(table: dict[int, str], name: str) -> int:
    """Return the number of a name in files."""
    return next(number for number, value in table.items() if value == name)


def _name(table: dict[int, str], what: str, number: int) -> str:
    if number not in table:
        raise BitstreamError(f"{what} number {number} is unknown: update cdl_d2")
    return table[number]


def _check(header: Header) -> None:
    if header.scale_floor and header.coding != "exact":
        raise BitstreamError(f"coding {header.coding!r} has no scale floor: update cdl_d2")
    try:
        for size in filter(None, (header.image_size, header.original_size)):
            check_pixels(size)
    except CdlError as error:
        raise BitstreamError(str(error)) from error
    if header.coded_size != coded_size(header.image_size):
        raise BitstreamError(
            f"an image of {header.image_size} pixels is not coded as {header.coded_size}"
        )
