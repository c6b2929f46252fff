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
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cdl_d2.codec.latent import CodecIdentity, check_pixels, coded_size
from cdl_d2.codec.registry import WIRE_NAMES
from cdl_d2.errors import BitstreamError, CdlError

if TYPE_CHECKING:
    from cdl_d2.codec.bitstream.stream import Bitstream

MAGIC = b"CDLZ"
PLAIN, PADDED, RESIZED = 1, 2, 3  # format versions
OWN_CODEC = 255

# Numbers in files: they never change. Those of codecs are in the registry.
METRICS = ("mse", "ms-ssim")
CODINGS = ("compressai", "exact", "base", "enhancement")  # up to number 7

_HEAD = struct.Struct("<4sBBBB8sBBIIIII")
_PADDING = struct.Struct("<BB")
_ORIGINAL = struct.Struct("<II")
_STRING = struct.Struct("<II")
_CRC = struct.Struct("<I")
_FLOOR = 8  # of a coding's byte: its number plus this many times the scale floor


def format_header(stream: Bitstream, codec_number: int, strings: Sequence[bytes]) -> bytes:
    """Return the bytes before the strings of a file.

    Args:
        stream: the bitstream.
        codec_number: number of its codec, or OWN_CODEC if the first string is its name.
        strings: all strings of the file.

    Raises:
        CdlError: for an image that is larger than read_header accepts.
    """
    for size in filter(None, (stream.image_size, stream.original_size)):
        check_pixels(size)
    version = RESIZED if stream.original_size else PADDED if any(stream.padding) else PLAIN
    head = _HEAD.pack(
        MAGIC,
        version,
        codec_number,
        stream.codec.quality,
        METRICS.index(stream.codec.metric),
        bytes.fromhex(stream.codec.weights),
        CODINGS.index(stream.coding) + _FLOOR * stream.scale_floor,
        len(strings),
        *stream.image_size,
        *stream.coded_size,
        stream.checksum or 0,
    )
    head += _PADDING.pack(*stream.padding) if version >= PADDED else b""
    head += _ORIGINAL.pack(*stream.original_size) if version >= RESIZED else b""
    head += b"".join(_STRING.pack(len(string), zlib.crc32(string)) for string in strings)
    return head + _CRC.pack(zlib.crc32(head))


def read_header(content: bytes) -> tuple[dict[str, Any], list[tuple[int, int]], int]:
    """Read the header of a file.

    Returns:
        arguments of Bitstream, with an empty name of a codec that has no number; length and CRC-32
        of each string; and the size of the header in bytes.

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
    floor, coding = divmod(coding, _FLOOR)
    name = "" if codec == OWN_CODEC else _name(WIRE_NAMES, "codec", codec)
    metric = _name(dict(enumerate(METRICS)), "metric", metric)
    fields = {
        "codec": CodecIdentity(name, quality, metric, "dequantized", weights.hex()),
        "coding": _name(dict(enumerate(CODINGS)), "coding", coding),
        "scale_floor": floor,
        "image_size": tuple(numbers[:2]),
        "checksum": numbers[4],
        "padding": _PADDING.unpack_from(content, _HEAD.size) if version >= PADDED else (0, 0),
    }
    if version >= RESIZED:
        fields["original_size"] = _ORIGINAL.unpack_from(content, original_at)
    _check(fields, tuple(numbers[2:4]))
    table = list(_STRING.iter_unpack(content[strings_at:crc_at]))
    return fields, table, crc_at + _CRC.size


def _name(table: dict[int, str], what: str, number: int) -> str:
    if number not in table:
        raise BitstreamError(f"{what} number {number} is unknown: update cdl_d2")
    return table[number]


def _check(fields: dict[str, Any], stored_size: tuple[int, int]) -> None:
    if fields["scale_floor"] and fields["coding"] != "exact":
        raise BitstreamError(f"coding {fields['coding']!r} has no scale floor: update cdl_d2")
    image_size = fields["image_size"]
    try:
        for size in filter(None, (image_size, fields.get("original_size"))):
            check_pixels(size)
    except CdlError as error:
        raise BitstreamError(str(error)) from error
    if stored_size != coded_size(image_size):
        raise BitstreamError(f"an image of {image_size} pixels is not coded as {stored_size}")
