"""A file with the latents of some images: zstd-compressed arrays, or bitstreams, in safetensors.

Why safetensors: measured on latents of COCO photographs, one core, LMDB, SQLite and a memory-mapped
safetensors file all give a random item in 0.01 to 0.03 ms, where decompressing it takes 0.7. Only
safetensors needs no further package, no locks, and works on read-only network disks; and a shard
appears whole or not at all. Zstandard at level 17 makes integer latents 1.18 times as large as
their bitstream; higher levels take longer and gain nothing.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cdl_d2.codec import cell_size
from cdl_d2.files import write_atomically

ZSTD_LEVEL = 17


_HEAD = struct.Struct("<BHIId")
_DTYPES = ("bitstream", "int8", "int16", "float32")


@dataclass(frozen=True)
class Record:
    """One stored latent.

    Attributes:
        content: a bitstream, or the compressed cells, M x ceil(H/16) x ceil(W/16).
        dtype: of the cells, or `bitstream`.
        channels: M.
        image_size: (H, W) in pixels.
        bits: of the coded image; of its file for a bitstream, estimated for cells.
    """

    content: bytes
    dtype: str
    channels: int
    image_size: tuple[int, int]
    bits: float

    def to_bytes(self) -> bytes:
        """The record with a header of its own."""
        numbers = _DTYPES.index(self.dtype), self.channels, *self.image_size, self.bits
        return _HEAD.pack(*numbers) + self.content

    @classmethod
    def from_bytes(cls, data: bytes) -> Record:
        """Read a record.

        Raises:
            ValueError: if it is damaged.
        """
        if len(data) < _HEAD.size or data[0] >= len(_DTYPES):
            raise ValueError("a stored latent is damaged: it has no valid header")
        dtype, channels, height, width, bits = _HEAD.unpack_from(data)
        return cls(data[_HEAD.size :], _DTYPES[dtype], channels, (height, width), bits)


def pack_cells(cells: torch.Tensor, image_size: tuple[int, int], bits: float) -> Record:
    """A record of a float latent; whole numbers take a byte or two each before compression."""
    import zstandard

    array = cells.cpu().contiguous().numpy()
    for dtype in (np.int8, np.int16):
        as_integers = array.astype(dtype)
        if np.array_equal(as_integers, array):
            array = as_integers
            break
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True)
    content = compressor.compress(array.tobytes())
    return Record(content, array.dtype.name, len(array), image_size, bits)


def unpack_cells(record: Record) -> torch.Tensor:
    """The float latent of a record.

    Raises:
        ValueError: if the content is damaged.
    """
    import zstandard

    dtype, shape = np.dtype(record.dtype), (record.channels, *cell_size(record.image_size))
    size = dtype.itemsize * math.prod(shape)
    try:
        announced = zstandard.frame_content_size(record.content)  # what would be allocated
        if announced != size:
            raise ValueError(f"a stored latent is damaged: {announced} bytes instead of {size}")
        content = zstandard.ZstdDecompressor().decompress(record.content)
    except zstandard.ZstdError as error:
        raise ValueError(f"a stored latent is damaged: {error}") from error
    return torch.from_numpy(np.frombuffer(content, dtype).reshape(shape).astype(np.float32))


def write_shard(path: Path, records: dict[str, Record], failures: dict[str, str]) -> None:
    """Write named records, whole or not at all; `failures` says what could not be encoded."""
    tensors = {
        name: torch.frombuffer(bytearray(record.to_bytes()), dtype=torch.uint8)
        for name, record in sorted(records.items())
    }
    with write_atomically(path) as temporary:
        save_file(tensors, temporary, metadata={"failures": json.dumps(failures)})


class ShardReader:
    """Random access to the records of a shard, by name; the file is mapped into memory.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged.
    """

    def __init__(self, path: Path):
        if not path.is_file():
            raise FileNotFoundError(f"the shard {path} is missing: copy it, or encode it again")
        try:
            self._file = safe_open(path, framework="np")
            self.failures: dict[str, str] = json.loads(self._file.metadata()["failures"])
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a shard of latents: {error}") from error

    def __getitem__(self, name: str) -> Record:
        return Record.from_bytes(self._file.get_tensor(name).tobytes())
