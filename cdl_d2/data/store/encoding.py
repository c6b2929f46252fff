"""Encoding a whole data set into a latent store, shard by shard.

A shard is written when its last image is done, so a run that is killed loses at most the shards it
was working on, and the next run does what is missing. Runs on several machines take different
shards of the same folder; whoever finds all of them there writes the manifest.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import Dataset

from cdl_d2.codec import Codec
from cdl_d2.codec.io.image_files import read_image
from cdl_d2.codec.latent import coded_cells
from cdl_d2.data.store.image_source import ImageSource
from cdl_d2.data.store.latent_store import record_name, shard_path, write_manifest
from cdl_d2.data.store.plan import Plan
from cdl_d2.data.store.shard import OtherStoreError, Record, ShardReader, pack_cells, write_shard
from cdl_d2.errors import CdlError, NoMemoryError, within_memory
from cdl_d2.workers import PlainlyPickled, load_in_workers


@dataclass(frozen=True)
class Encoded:
    """An image's records by name and what the image was, or why there are none."""

    image: str
    records: dict[str, Record]
    source: ImageSource | None = None
    error: str = ""


@dataclass(frozen=True)
class Pixels:
    """An image's variants, 3 x H x W, uint8, or why there are none."""

    image: str
    variants: tuple[torch.Tensor, ...]
    source: ImageSource | None = None
    error: str = ""


def read_variants(plan: Plan, images: Path, image: str) -> Pixels:
    """All variants of one image."""
    try:
        with within_memory():
            original = read_image(images / image)
            variants = tuple(variant.apply(original) for variant in plan.variants)
        return Pixels(image, variants, ImageSource.of(images / image, tuple(original.shape[1:])))
    except (OSError, ValueError) as error:
        return Pixels(image, (), error=str(error))


def encode_images(codec: Codec, plan: Plan, chunk: Sequence[Pixels]) -> list[Encoded]:
    """Encode the variants of some images, those of one coded size in one batch.

    Raises:
        NoMemoryError: if a batch does not fit.
    """
    groups: dict[tuple[int, int], list[tuple[int, str, torch.Tensor]]] = {}
    for place, pixels in enumerate(chunk):
        for i, variant in enumerate(pixels.variants):
            group = groups.setdefault(coded_cells(variant.shape[1:]), [])
            group.append((place, record_name(pixels.image, i), variant))
    records: list[dict[str, Record]] = [{} for _ in chunk]
    for group in groups.values():
        for start in range(0, len(group), len(chunk)):  # a batch is no larger than the chunk
            batch = group[start : start + len(chunk)]
            with within_memory():
                found = encode_records(codec, plan.form, [variant for _, _, variant in batch])
            for (place, name, _), record in zip(batch, found, strict=True):
                records[place][name] = record
    return [Encoded(p.image, r, p.source, p.error) for p, r in zip(chunk, records, strict=True)]


def encode_records(codec: Codec, form: str, variants: Sequence[torch.Tensor]) -> list[Record]:
    """Records of images, 3 x H x W, uint8, of one coded size."""
    device = next(codec.parameters()).device
    floats = [variant.to(device).float() / 255 for variant in variants]
    if form == "arrays":
        latents = codec.encode_batch(floats)
        with ThreadPoolExecutor() as pool:  # the compressor works outside of Python's lock
            return list(
                pool.map(lambda x: pack_cells(x.cells, x.image_size, x.total_bits), latents)
            )
    contents = [stream.to_bytes() for stream in codec.compress_batch(floats)]
    return [
        Record(content, "bitstream", codec.latent_channels, tuple(v.shape[1:]), 8 * len(content))
        for content, v in zip(contents, variants, strict=True)
    ]


class _Images(PlainlyPickled, Dataset):
    """Images by name: encoded, or with no codec their pixels."""

    def __init__(self, codec: Codec | None, plan: Plan, folder: Path):
        self.codec, self.plan, self.folder = codec, plan, folder

    def __getitem__(self, name: str) -> Encoded | Pixels:
        pixels = read_variants(self.plan, self.folder, name)
        if not self.codec:
            return pixels
        try:
            return encode_images(self.codec, self.plan, [pixels])[0]
        except NoMemoryError as error:
            return Encoded(pixels.image, {}, error=str(error))


def missing_shards(folder: Path, plan: Plan, part: tuple[int, int] = (0, 1)) -> list[int]:
    """The shards of part i of n that are not written yet, were written with failures, or are
    damaged.

    Raises:
        OtherStoreError: if one holds something else.
    """
    index, parts = part
    return [s for s in range(index, plan.shards, parts) if not _is_done(folder, plan, s)]


def _is_done(folder: Path, plan: Plan, shard: int) -> bool:
    try:
        reader = ShardReader(shard_path(folder, shard))
        reader.check(plan.of_shard(shard))
    except OtherStoreError as error:
        raise OtherStoreError(f"{error}; take a new folder") from error
    except (CdlError, FileNotFoundError):
        return False
    return not reader.failures


def encode_shards(
    codec: Codec,
    plan: Plan,
    images: Path,
    output: Path,
    shards: Iterable[int],
    workers: int,
    batch_size: int = 0,
) -> Iterator[Encoded]:
    """Write shards of a store; gives each image when it is encoded, for progress and reports.

    Args:
        codec: on the CPU, unless there is a batch size or no worker.
        images: the folder that the plan's paths are relative to.
        output: the store's folder.
        workers: processes that encode with one thread each; with 0, this process encodes.
        batch_size: with one, for GPUs, the workers only read images, and this process encodes the
            variants of so many images at a time, in batches of equal size.
    """
    shards = list(shards)
    if not shards:  # start no workers
        return
    names = [image for shard in shards for image in plan.images_of(shard)]
    dataset = _Images(None if batch_size else codec, plan, images)
    items = load_in_workers(dataset, names, workers, method="spawn")
    encoded = _encode_in_batches(codec, plan, items, batch_size) if batch_size else items
    for shard in shards:
        records: dict[str, Record] = {}
        failures: dict[str, str] = {}
        sources: dict[str, ImageSource] = {}
        for done in itertools.islice(encoded, len(plan.images_of(shard))):
            records |= done.records
            if done.error:
                failures[done.image] = done.error
            elif done.source:
                sources[done.image] = done.source
            yield done
        part = plan.of_shard(shard)
        write_shard(shard_path(output, shard), part, records, failures, sources)


def _encode_in_batches(
    codec: Codec, plan: Plan, items: Iterator[Pixels], batch_size: int
) -> Iterator[Encoded]:
    while chunk := list(itertools.islice(items, batch_size)):
        try:
            yield from encode_images(codec, plan, chunk)
        except NoMemoryError as error:
            raise NoMemoryError(
                f"{len(chunk)} images at a time do not fit the memory: take a smaller batch"
            ) from error


def close_store(output: Path, plan: Plan) -> dict[str, str] | None:
    """Write the manifest if all shards are there.

    Returns:
        the images that failed, and why; None if shards are missing.
    """
    if not all(shard_path(output, shard).exists() for shard in range(plan.shards)):
        return None
    return write_manifest(output, plan)
