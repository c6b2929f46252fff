"""Latent stores of each form with one corrupted or forged file."""

from __future__ import annotations

import json
import os
import struct
import tempfile
import zlib
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch
import zstandard
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save

from cdl_d2.data import LatentStore, Plan, Variant
from cdl_d2.data.store.encoding import encode_shards
from cdl_d2.data.store.latent_store import close_store
from cdl_d2.data.store.plan import FORMS
from cdl_d2.data.store.verification import verify_store
from tests.conftest import small_codec
from tests.fuzz.mutations import mutate_bytes, mutate_values

CODEC = "bmshj2018-hyperprior"
VARIANTS = (Variant(), Variant(24, 40, flip=True))
IMAGES = ("a.png", "b.png", "more/c.png")
SHARD, PLAN, MANIFEST = "shard-00000.safetensors", "plan.json", "manifest.json"


@cache
def _stores() -> dict[str, dict[str, bytes]]:
    """Return the files of a store of each form."""
    stores, codec = {}, small_codec(CODEC)
    with tempfile.TemporaryDirectory() as name:
        photos = Path(name) / "photos"
        (photos / "more").mkdir(parents=True)
        for number, image in enumerate(IMAGES):
            picture = Random(number).randbytes(30 * 40 * 3)
            Image.frombytes("RGB", (40, 30), picture).save(photos / image)
            os.utime(photos / image, (0, 0))  # kept in the shard
        for form in FORMS:
            plan, folder = Plan(codec.identity, form, VARIANTS, IMAGES, 2), Path(name) / form
            plan.save(folder)
            assert not any(e.error for e in encode_shards(codec, plan, photos, folder, range(2), 0))
            close_store(folder, plan)
            stores[form] = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    return stores


def make_files(file: str) -> dict[str, bytes]:
    """Return one file of each store."""
    return {f"{form}/{file}": files[file] for form, files in _stores().items()}


def read_store(name: str, content: bytes, folder: Path) -> Any:
    """Verify a store with one file replaced, and return all its latents."""
    form, file = name.split("/")
    for name, valid in _stores()[form].items():
        (folder / name).write_bytes(content if name == file else valid)
    list(verify_store(folder, folder))
    store = LatentStore(folder, small_codec(CODEC))
    store.require_all_images()
    store.require(VARIANTS)
    return [store.read(image, variant) for image in IMAGES for variant in VARIANTS]


def mutate_json(rng: Random, content: bytes) -> bytes:
    """Corrupt JSON as text or as values."""
    if rng.random() < 0.4:
        return mutate_bytes(rng, content)
    return json.dumps(mutate_values(rng, json.loads(content))).encode()


def forge_shard(rng: Random, content: bytes) -> bytes:
    """Change records or metadata of a shard, with matching checksums."""
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(content)
        with safe_open(file.name, framework="pt") as shard:
            metadata = shard.metadata()
            records = {k: bytearray(shard.get_tensor(k).numpy()) for k in shard.keys()}  # noqa: SIM118
    if rng.random() < 0.3:
        values = mutate_values(rng, json.loads(metadata["shard"]))
        metadata = {"shard": json.dumps(values)}
    else:
        name = rng.choice(sorted(records))
        record = _forge_record(rng, bytes(records[name][4:]))
        checksum = zlib.crc32(record, zlib.crc32(name.encode()))
        records[name] = bytearray(struct.pack("<I", checksum) + record)
    tensors = {k: torch.frombuffer(r, dtype=torch.uint8) for k, r in records.items()}
    return save(tensors, metadata=metadata)


def _forge_record(rng: Random, record: bytes) -> bytes:
    """Change header, compressed or decompressed content of a record."""
    head, content = record[:19], record[19:]
    way = rng.randrange(3)
    if way == 0:
        return mutate_bytes(rng, head) + content
    if way == 1:
        return head + mutate_bytes(rng, content)
    cells = zstandard.compress(rng.randbytes(rng.choice([0, 1, 288, 1152])) * rng.choice([1, 4]))
    return head + struct.pack("<I", rng.choice([len(cells), 0, 2**32 - 1])) + cells + content[:9]
