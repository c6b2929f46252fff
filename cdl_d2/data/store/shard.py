"""A file with the latents of some images: zstd-compressed arrays, or bitstreams, in safetensors.

Why safetensors: measured on latents of COCO photographs, one core, LMDB, SQLite and a memory-mapped
safetensors file all give a random item in 0.01 to 0.03 ms, where decompressing it takes 0.7. Only
safetensors needs no further package, no locks, and works on read-only network disks; and a shard
appears whole or not at all. It is read rather than mapped, since a mapped file that is cut ends the
process. Of the same latents, bytes under zstandard take 1.36 times their
bitstream at level 9 and 1.20 times at level 17, which is eight times slower; two bits a value take
1.16 times at level 9, in 6 ms an image, and higher levels gain little.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from cdl_d2.codec import latent_grid
from cdl_d2.codec.io.weights_file import save_tensors
from cdl_d2.codec.latent import check_pixels
from cdl_d2.data.store.image_source import ImageSource
from cdl_d2.data.store.plan import Plan
from cdl_d2.errors import CdlError
from cdl_d2.files import check_file

ZSTD_LEVEL = 9

_HEAD = struct.Struct("<BHIId")
_LENGTH = struct.Struct("<I")
_LENGTH_OF_HEAD = struct.Struct("<Q")
_CRC = struct.Struct("<I")  # of a record's name, head and content, before them
_SAID = "shard"  # key of the metadata
_DTYPES = ("bitstream", "int8", "int16", "float32")
_ESCAPE = 2  # among the codes of two bits: a value other than 0, 1 and -1 (3)
_VALUES = np.array([0, 1, _ESCAPE, -1], np.float32)[np.arange(256)[:, None] >> [0, 2, 4, 6] & 3]
_QUADS = _VALUES.view(np.complex128)[:, 0]  # the four values of a byte as one item, fast to index


class OtherStoreError(CdlError):
    """A shard holds what its store's plan does not say."""


@dataclass(frozen=True)
class Record:
    """One stored latent.

    Attributes:
        content: a bitstream, or the compressed cells, M x ceil(H/16) x ceil(W/16).
        dtype: `bitstream`, or of the cells; for integers, of those other than 0, 1 and -1.
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
            CdlError: if it is damaged, or of more pixels than latent.max_pixels.
        """
        if len(data) < _HEAD.size or data[0] >= len(_DTYPES):
            raise CdlError("a stored latent is damaged: it has no valid header")
        dtype, channels, height, width, bits = _HEAD.unpack_from(data)
        check_pixels((height, width))  # before anything of that size is allocated
        return cls(data[_HEAD.size :], _DTYPES[dtype], channels, (height, width), bits)


def pack_cells(cells: torch.Tensor, image_size: tuple[int, int], bits: float) -> Record:
    """A record of a float latent.

    Most of a latent is 0, 1 or -1: two bits a value, the rest apart, in one or two bytes each.
    A latent that is not whole numbers is stored as it is.
    """
    array = cells.cpu().contiguous().numpy()
    channels = len(array)
    for dtype in (np.int8, np.int16):
        values = array.astype(dtype)
        if np.array_equal(values, array):
            break
    else:
        return Record(_compress(array), "float32", channels, image_size, bits)
    values = values.reshape(-1)
    small = (values >= -1) & (values <= 1)  # abs(-128) of int8 is -128
    codes = np.where(small, values & 3, _ESCAPE).astype(np.uint8)  # -1 is 3
    codes = np.pad(codes, (0, -len(codes) % 4)).reshape(-1, 4)
    packed = _compress(np.bitwise_or.reduce(codes << np.arange(0, 8, 2, dtype=np.uint8), axis=1))
    content = _LENGTH.pack(len(packed)) + packed + _compress(values[~small])
    return Record(content, values.dtype.name, channels, image_size, bits)


def unpack_cells(record: Record) -> torch.Tensor:
    """The float latent of a record.

    Raises:
        CdlError: if the content is damaged.
    """
    shape = record.channels, *latent_grid(record.image_size)
    count = math.prod(shape)
    if record.dtype == "float32":
        values = _decompress(record.content, "float32", count).copy()
    else:
        end = _LENGTH.size + int.from_bytes(record.content[: _LENGTH.size], "little")
        packed, rest = record.content[_LENGTH.size : end], record.content[end:]
        values = _QUADS[_decompress(packed, "uint8", -(-count // 4))].view(np.float32)[:count]
        escaped = np.flatnonzero(values == _ESCAPE)
        values[escaped] = _decompress(rest, record.dtype, len(escaped))
    return torch.from_numpy(values.reshape(shape))


def _compress(array: np.ndarray) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True).compress(array.tobytes())


def _decompress(content: bytes, dtype: str, count: int) -> np.ndarray:
    import zstandard

    size = np.dtype(dtype).itemsize * count
    try:
        announced = zstandard.frame_content_size(content)  # what would be allocated
        if announced != size:
            raise CdlError(f"a stored latent is damaged: {announced} bytes instead of {size}")
        return np.frombuffer(zstandard.ZstdDecompressor().decompress(content), dtype)
    except zstandard.ZstdError as error:
        raise CdlError(f"a stored latent is damaged: {error}") from error


def write_shard(
    path: Path,
    plan: Plan,
    records: dict[str, Record],
    failures: dict[str, str],
    sources: dict[str, ImageSource],
) -> None:
    """Write named records, whole or not at all.

    Args:
        plan: of this shard alone.
        failures: what could not be encoded, and why.
        sources: what the images were.
    """
    tensors = {
        name: torch.frombuffer(_with_checksum(name, record), dtype=torch.uint8)
        for name, record in sorted(records.items())
    }
    said = {
        "plan": asdict(plan),
        "failures": failures,
        "sources": {image: asdict(source) for image, source in sources.items()},
    }
    save_tensors(path, tensors, {_SAID: json.dumps(said)})


def _with_checksum(name: str, record: Record) -> bytearray:
    content = record.to_bytes()
    return bytearray(_checksum(name, content) + content)


def _checksum(name: str, content: bytes) -> bytes:
    return _CRC.pack(zlib.crc32(content, zlib.crc32(name.encode())))


def is_text_by_text(value: object) -> bool:
    """Whether JSON gave a dict of texts, such as failures by image."""
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


class ShardReader:
    """Random access to the records of a shard, by name.

    Attributes:
        plan: of this shard alone; None in a store of format 1.
        failures: the images that could not be encoded, and why.
        sources: what the images were when they were encoded.

    Raises:
        FileNotFoundError: if there is no such file.
        CdlError: if it is damaged.
    """

    def __init__(self, path: Path):
        self._path = path
        check_file(path)
        try:
            self._file = open(path, "rb")  # noqa: SIM115
        except FileNotFoundError as error:
            hint = "run the `cdl data encode` that made the store again"
            raise FileNotFoundError(f"the shard {path} is missing: {hint}") from error
        try:
            self._read_head()
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise CdlError(
                f"{path} is not a shard of latents, or damaged ({error}): run the `cdl data "
                "encode` that made it again"
            ) from error

    def __getitem__(self, name: str) -> Record:
        if name not in self._places:
            raise CdlError(f"{self._path} is a shard of another store: it has no {name}")
        data = self._read(*self._places[name])
        if self.plan is not None:
            expected, data = data[: _CRC.size], data[_CRC.size :]
            if _checksum(name, data) != expected:
                raise CdlError(
                    f"{self._path} is damaged, at {name}: run the `cdl data encode` that made it "
                    "again"
                )
        return Record.from_bytes(data)

    def check(self, plan: Plan, thorough: bool = True) -> None:
        """
        Args:
            plan: what this shard should hold.
            thorough: whether to read all records.

        Raises:
            OtherStoreError: if it holds something else.
            CdlError: if it is damaged.
        """
        if self.plan is None and plan.format == 1:
            return
        difference = (
            "it is of format 1, which does not say what it holds"
            if self.plan is None
            else plan.difference(self.plan)
        )
        if difference:
            raise OtherStoreError(f"{self._path} is a shard of another store: {difference}")
        for name in self._places if thorough else ():
            _ = self[name]

    def _read_head(self) -> None:
        """See safetensors' documentation of its format."""
        (length,) = _LENGTH_OF_HEAD.unpack(self._read(0, _LENGTH_OF_HEAD.size))
        start = _LENGTH_OF_HEAD.size + length
        head = json.loads(self._read(_LENGTH_OF_HEAD.size, length))
        metadata = head.pop("__metadata__")
        offsets = {name: entry["data_offsets"] for name, entry in head.items()}
        self._places = {n: (start + first, last - first) for n, (first, last) in offsets.items()}
        end = max((first + size for first, size in self._places.values()), default=start)
        if end != self._size():
            raise CdlError(f"it has {self._size()} bytes instead of {end}")
        if _SAID in metadata:
            said = json.loads(metadata[_SAID])
        else:  # format 1
            said = {"plan": None, "failures": json.loads(metadata["failures"]), "sources": {}}
        self.plan = None if said["plan"] is None else Plan.from_dict(said["plan"])
        self.failures: dict[str, str] = said["failures"]
        if not is_text_by_text(self.failures):
            raise CdlError("what it says of failures is no text")
        self.sources = {
            name: ImageSource.from_dict(source) for name, source in said["sources"].items()
        }

    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def _read(self, start: int, size: int) -> bytes:
        """Part of the file; other processes may read from it, too."""
        if not 0 <= size <= self._size():
            raise CdlError(f"{self._path} is damaged: {size} bytes are not in it")
        data = os.pread(self._file.fileno(), size, start)
        if len(data) != size:
            raise CdlError(f"{self._path} is damaged: it ends before byte {start + size}")
        return data
