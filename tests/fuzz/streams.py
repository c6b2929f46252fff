"""Bitstreams, whole and in layers: genuine ones, forged ones, and what they decode to."""

from __future__ import annotations

import dataclasses
import struct
import zlib
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch

from cdl_d2.codec import Bitstream, Codec
from cdl_d2.codec.bitstream.compressai_file import load_bitstream
from cdl_d2.codec.bitstream.layers import (
    Layers,
    compress_layers,
    decompress_base,
    decompress_layers,
)
from tests.codec.bitstream.test_compressai_file import written
from tests.conftest import small_codec, small_network
from tests.fuzz.mutations import mutate_bytes

CODECS = ("bmshj2018-factorized", "bmshj2018-hyperprior", "mbt2018-mean", "mbt2018")
LAYERED = ("bmshj2018-hyperprior", "mbt2018-mean")
HEADER = 38  # bytes before the table of strings


@cache
def _image() -> torch.Tensor:
    return torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(3))


@cache
def _layers(name: str) -> Layers:
    return compress_layers(small_codec(name), _image(), range(0, 32, 3))


def make_streams() -> dict[str, bytes]:
    """A bitstream of each codec."""
    return {name: small_codec(name).compress(_image()).to_bytes() for name in CODECS}


def make_layers() -> dict[str, bytes]:
    """Both layers of each codec that has layers."""
    layers = {name: _layers(name) for name in LAYERED}
    return {
        f"{name} {part}": getattr(both, part).to_bytes()
        for name, both in layers.items()
        for part in ("base", "enhancement")
    }


def read_stream(name: str, content: bytes, folder: Path) -> Any:
    """The latent of a bitstream."""
    (folder / "a.cdlz").write_bytes(content)
    y_hat = small_codec(name).read_symbols(Bitstream.load(folder / "a.cdlz")).y_hat
    assert torch.isfinite(y_hat).all()
    return y_hat


@cache
def _theirs(name: str) -> Codec:
    return Codec(small_network(name), name, 1, "mse", "dequantized")


def make_compressai_files() -> dict[str, bytes]:
    """A file of each codec, as CompressAI's own command writes it."""
    return {name: written(_image(), name) for name in CODECS}


def read_compressai_file(name: str, content: bytes, folder: Path) -> Any:
    """The latent of a file of CompressAI."""
    (folder / "a.bin").write_bytes(content)
    return _theirs(name).read_symbols(load_bitstream(folder / "a.bin")).y_hat


def read_layer(name: str, content: bytes, folder: Path) -> Any:
    """The latent of a base layer, and of both; of an enhancement layer with its base layer."""
    (folder / "a.cdlz").write_bytes(content)
    codec, stream = small_codec(name.split()[0]), Bitstream.load(folder / "a.cdlz")
    layers = _layers(name.split()[0])
    if name.endswith("enhancement"):
        return decompress_layers(codec, layers.base, stream).y_hat
    first, mask = decompress_base(codec, stream)
    return first.y_hat, mask, decompress_layers(codec, stream, layers.enhancement).y_hat


def forge_stream(rng: Random, content: bytes) -> bytes:
    """Other strings or another header, under checksums that fit; that of the symbols stays, or is
    left out."""
    stream = Bitstream.from_bytes(content)
    if rng.random() < 0.3:
        more = rng.choice([{}, {"padding": (12, 2)}, {"original_size": (80, 120)}])
        content = dataclasses.replace(stream, **more).to_bytes()
        table = HEADER + {1: 0, 2: 2, 3: 10}[content[4]] + 8 * len(stream.strings)
        head = bytearray(content[:table])
        for _ in range(rng.randint(1, 3)):
            head[rng.randrange(table)] = rng.randrange(256)
        return bytes(head) + struct.pack("<I", zlib.crc32(head)) + content[table + 4 :]
    strings = (mutate_bytes(rng, s) if rng.random() < 0.5 else s for s in stream.strings)
    return dataclasses.replace(
        stream,
        strings=tuple(strings),
        checksum=rng.choice([stream.checksum, None]),
        coding=rng.choice([stream.coding, "exact", "compressai"]),
        scale_floor=rng.choice([stream.scale_floor, 0, 31]),
    ).to_bytes()
