"""Files of CompressAI's own command, `examples/codec.py encode`, NAME.bin.

```
 1 model number          1 metric (upper 4 bits), quality - 1     8 image H, W
 1 bits per sample       8 rows and columns of the last latent    4 number of strings
   each string: 4 length, the string
```

Big endian. The image was padded equally on all sides to multiples of 64. The weights are not named
(the command uses CompressAI's own), and there are no checksums.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

from cdl_d2.codec.bitstream.header import MAGIC
from cdl_d2.codec.bitstream.stream import Bitstream
from cdl_d2.codec.latent import STRIDE, CodecIdentity, check_pixels, coded_cells
from cdl_d2.codec.registry import get_architecture
from cdl_d2.errors import BitstreamError, CdlError

COMPRESSAI_SUFFIX = ".bin"
MODELS = (  # by model number, since CompressAI 1.2.2; earlier versions have no second model
    *("bmshj2018-factorized", "bmshj2018-factorized-relu", "bmshj2018-hyperprior"),
    *("mbt2018-mean", "mbt2018", "cheng2020-anchor", "cheng2020-attn"),
)
METRICS = ("mse", "ms-ssim")  # by number
_HEAD = struct.Struct(">BBIIBIII")
_LENGTH = struct.Struct(">I")
_BIT_DEPTHS = (8, 10)
_MAX_STRINGS = 2


def is_compressai_file(content: bytes) -> bool:
    """Return whether content is a whole file of CompressAI, judged by its numbers (no magic)."""
    try:
        read_compressai_file(content)
    except BitstreamError:
        return False
    return True


def read_compressai_file(content: bytes) -> Bitstream:
    """Read the content of a CompressAI file; the weights in the codec's identity are empty.

    Raises:
        BitstreamError: if it is not such a file, is corrupted, has more pixels than
            latent.max_pixels or a model that is not registered.
    """
    if len(content) < _HEAD.size:
        raise BitstreamError(f"truncated: {len(content)} bytes are less than CompressAI's header")
    model, code, *size, depth, rows, columns, count = _HEAD.unpack_from(content)
    if model >= len(MODELS):
        raise BitstreamError(
            f"model number {model} of CompressAI is not one of 0..{len(MODELS) - 1}, its image "
            "models: videos and variable rates are not supported"
        )
    metric, quality = code >> 4, (code & 15) + 1
    if metric >= len(METRICS) or depth not in _BIT_DEPTHS or not 1 <= count <= _MAX_STRINGS:
        raise BitstreamError(
            f"corrupted, or not a file of CompressAI: metric {metric}, {depth} bits per sample, "
            f"{count} strings"
        )
    codec = CodecIdentity(MODELS[model], quality, METRICS[metric], "dequantized", weights="")
    strings = _read_strings(content, count)
    height, width = size
    try:
        get_architecture(codec.name).check_choice(codec.quality, codec.metric)
        check_pixels((height, width))
        coded = {"strings": [[string] for string in strings], "shape": (rows, columns)}
        padding = _centre_padding(height, width)
        stream = Bitstream.from_compressai(codec, coded, (height, width), padding)
    except CdlError as error:
        raise BitstreamError(str(error)) from error
    return replace(stream, file_bytes=len(content))


def _read_strings(content: bytes, count: int) -> list[bytes]:
    strings, start = [], _HEAD.size
    for _ in range(count):
        if start + _LENGTH.size > len(content):
            raise BitstreamError(f"truncated: {len(content)} bytes do not hold {count} strings")
        [length] = _LENGTH.unpack_from(content, start)
        start += _LENGTH.size
        strings.append(content[start : start + length])
        start += length
    if start != len(content):
        raise BitstreamError(f"truncated or corrupted: {len(content)} of {start} bytes")
    return strings


def _centre_padding(height: int, width: int) -> tuple[int, int, int, int]:
    """Return the padding of an image in pixels: left, right, top, bottom."""
    rows, columns = coded_cells((height, width))
    vertical, horizontal = rows * STRIDE - height, columns * STRIDE - width
    top, left = vertical // 2, horizontal // 2
    return left, horizontal - left, top, vertical - top


def read_bitstream(content: bytes, name: str) -> Bitstream:
    """Read the content of a bitstream file of either format.

    Args:
        content: bytes of the file.
        name: name of the file; one that ends in `.bin` is expected to be CompressAI's.

    Raises:
        BitstreamError: with the name, if it is neither.
    """
    is_compressai = name.lower().endswith(COMPRESSAI_SUFFIX) or is_compressai_file(content)
    is_own = content.startswith(MAGIC) or not is_compressai
    try:
        return Bitstream.from_bytes(content) if is_own else read_compressai_file(content)
    except BitstreamError as error:
        raise BitstreamError(f"{name}: {error}") from error


def load_bitstream(path: str | Path) -> Bitstream:
    """Read a bitstream file of either format.

    Raises:
        FileNotFoundError: if it does not exist.
        BitstreamError: as `read_bitstream`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no bitstream {path}")
    return read_bitstream(path.read_bytes(), str(path))
