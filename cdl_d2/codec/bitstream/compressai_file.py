"""Files of CompressAI's own command, `examples/codec.py encode`, NAME.bin.

```
 1 number of the model   1 metric (upper 4 bits), quality - 1     8 image H, W
 1 bits a sample         8 rows and columns of the last latent    4 number of strings
   each string: 4 length, the string
```

Big endian. The image was padded to multiples of 64 on all sides alike. Nothing says which weights
coded it (the command takes CompressAI's own), and there are no checksums.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

from cdl_d2.codec.architectures import check_codec_choice
from cdl_d2.codec.bitstream.header import MAGIC
from cdl_d2.codec.bitstream.stream import Bitstream
from cdl_d2.codec.latent import STRIDE, CodecIdentity, check_pixels, coded_cells
from cdl_d2.errors import BitstreamError, CdlError

COMPRESSAI_SUFFIX = ".bin"
MODELS = (  # by their numbers, since CompressAI 1.2.2; before, there was no second one
    *("bmshj2018-factorized", "bmshj2018-factorized-relu", "bmshj2018-hyperprior"),
    *("mbt2018-mean", "mbt2018", "cheng2020-anchor", "cheng2020-attn"),
)
METRICS = ("mse", "ms-ssim")  # the same
_HEAD = struct.Struct(">BBIIBIII")
_LENGTH = struct.Struct(">I")
_BIT_DEPTHS = (8, 10)
_MOST_STRINGS = 2


def is_compressai_file(content: bytes) -> bool:
    """Whether content is a whole file of CompressAI: nothing at its beginning says so, but all of
    its numbers have to fit together."""
    try:
        read_compressai_file(content)
    except BitstreamError:
        return False
    return True


def read_compressai_file(content: bytes) -> Bitstream:
    """The bitstream in a file of CompressAI; it does not say which weights wrote it.

    Raises:
        BitstreamError: if it is no such file of an image, damaged, or of more pixels than
            latent.max_pixels; for a model that is not one of ARCHITECTURES.
    """
    if len(content) < _HEAD.size:
        raise BitstreamError(f"truncated: {len(content)} bytes are no whole header of CompressAI")
    model, code, *size, depth, rows, columns, count = _HEAD.unpack_from(content)
    if model >= len(MODELS):
        raise BitstreamError(
            f"model number {model} of CompressAI is not one of 0..{len(MODELS) - 1}, its image "
            "models: videos and variable rates are not read"
        )
    metric, quality = code >> 4, (code & 15) + 1
    if metric >= len(METRICS) or depth not in _BIT_DEPTHS or not 1 <= count <= _MOST_STRINGS:
        raise BitstreamError(
            f"damaged, or no file of CompressAI: metric {metric}, {depth} bits a sample, "
            f"{count} strings"
        )
    codec = CodecIdentity(MODELS[model], quality, METRICS[metric], "dequantized", weights="")
    strings = _strings(content, count)
    height, width = size
    try:
        check_codec_choice(codec.name, codec.quality, codec.metric)
        check_pixels((height, width))
        coded = {"strings": [[string] for string in strings], "shape": (rows, columns)}
        stream = Bitstream.from_compressai(codec, coded, (height, width), _centred(height, width))
    except CdlError as error:
        raise BitstreamError(str(error)) from error
    return replace(stream, file_bytes=len(content))


def _strings(content: bytes, count: int) -> list[bytes]:
    strings, start = [], _HEAD.size
    for _ in range(count):
        if start + _LENGTH.size > len(content):
            raise BitstreamError(f"truncated: {len(content)} bytes do not hold {count} strings")
        [length] = _LENGTH.unpack_from(content, start)
        start += _LENGTH.size
        strings.append(content[start : start + length])
        start += length
    if start != len(content):
        raise BitstreamError(f"truncated or damaged: {len(content)} bytes of {start} announced")
    return strings


def _centred(height: int, width: int) -> tuple[int, int, int, int]:
    """Left, right, top, bottom."""
    coded = (cells * STRIDE for cells in coded_cells((height, width)))
    bottom, right = (c - side for c, side in zip(coded, (height, width), strict=True))
    top, left = bottom // 2, right // 2
    return left, right - left, top, bottom - top


def read_bitstream(content: bytes, name: str) -> Bitstream:
    """A bitstream of either format; raises BitstreamError, which has the name, for anything else.

    Args:
        name: of the file; one that ends in `.bin` says which format is expected.
    """
    theirs = name.lower().endswith(COMPRESSAI_SUFFIX) or is_compressai_file(content)
    ours = content.startswith(MAGIC) or not theirs
    read = Bitstream.from_bytes if ours else read_compressai_file
    try:
        return read(content)
    except BitstreamError as error:
        raise BitstreamError(f"{name}: {error}") from error


def load_bitstream(path: str | Path) -> Bitstream:
    """As read_bitstream, of a file; raises FileNotFoundError if there is none."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no bitstream {path}")
    return read_bitstream(path.read_bytes(), str(path))
