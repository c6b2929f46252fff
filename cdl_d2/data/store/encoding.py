"""Encoding of images into the shards of a latent store.

A shard is written when its last image is encoded: a run that is killed loses at most the shard it
was working on, and the next run encodes what is missing. Runs on several machines encode different
shards of one folder; the last one writes the manifest.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch.utils.data import Dataset

from cdl_d2.codec import Codec
from cdl_d2.codec.io.image_files import read_image
from cdl_d2.codec.latent import coded_cells
from cdl_d2.data.store.image_source import ImageSource
from cdl_d2.data.store.latent_store import record_name, shard_path
from cdl_d2.data.store.plan import Plan
from cdl_d2.data.store.record import Record, pack_latent
from cdl_d2.data.store.shard import ShardMismatchError, ShardReader, write_shard
from cdl_d2.errors import CdlError, NoMemoryError, within_memory
from cdl_d2.workers import PlainlyPickled, load_in_workers


@dataclass(frozen=True)
class EncodedImage:
    """Image of a data set, first with pixels, then with records, or with the error if it failed.

    Attributes:
        name: name of the image.
        source: fingerprint of its file.
        variants: pixels of each variant, 3 x H x W, uint8, until they are encoded.
        records: records by name.
        error: reason why it could not be encoded.
    """

    name: str
    source: ImageSource | None = None
    variants: tuple[torch.Tensor, ...] = ()
    records: dict[str, Record] = field(default_factory=dict)
    error: str = ""


def read_variants(plan: Plan, folder: Path, name: str) -> EncodedImage:
    """Return an image with all its variants."""
    try:
        with within_memory():
            original = read_image(folder / name)
            variants = tuple(variant.apply(original) for variant in plan.variants)
        source = ImageSource.from_file(folder / name, tuple(original.shape[1:]))
        return EncodedImage(name, source, variants)
    except (OSError, ValueError) as error:
        return EncodedImage(name, error=str(error))


def encode_images(codec: Codec, plan: Plan, chunk: Sequence[EncodedImage]) -> list[EncodedImage]:
    """Encode the variants of some images; variants of equal padded size form batches.

    Raises:
        NoMemoryError: if a batch does not fit into memory.
    """
    groups: dict[tuple[int, int], list[tuple[EncodedImage, int]]] = {}
    for image in chunk:
        for i, variant in enumerate(image.variants):
            groups.setdefault(coded_cells(variant.shape[1:]), []).append((image, i))
    for group in groups.values():
        for start in range(0, len(group), len(chunk)):  # a batch is no larger than the chunk
            batch = group[start : start + len(chunk)]
            with within_memory():
                pixels = [image.variants[i] for image, i in batch]
                records = encode_records(codec, plan.form, pixels)
            for (image, i), record in zip(batch, records, strict=True):
                image.records[record_name(image.name, i)] = record
    return [replace(image, variants=()) for image in chunk]


def encode_records(codec: Codec, form: str, variants: Sequence[torch.Tensor]) -> list[Record]:
    """Return the records of images, 3 x H x W, uint8, of equal padded size."""
    device = next(codec.parameters()).device
    floats = [variant.to(device).float() / 255 for variant in variants]
    if form == "arrays":
        latents = codec.encode_batch(floats)
        with ThreadPoolExecutor() as pool:  # the compressor releases the GIL
            return list(
                pool.map(lambda x: pack_latent(x.cells, x.image_size, x.total_bits), latents)
            )
    contents = [stream.to_bytes() for stream in codec.compress_batch(floats)]
    return [
        Record(content, "bitstream", codec.latent_channels, tuple(v.shape[1:]), 8 * len(content))
        for content, v in zip(contents, variants, strict=True)
    ]


class _Images(PlainlyPickled, Dataset):
    """Dataset of images by name: encoded, or without a codec their pixels."""

    def __init__(self, codec: Codec | None, plan: Plan, folder: Path):
        self.codec, self.plan, self.folder = codec, plan, folder

    def __getitem__(self, name: str) -> EncodedImage:
        image = read_variants(self.plan, self.folder, name)
        try:
            return encode_images(self.codec, self.plan, [image])[0] if self.codec else image
        except NoMemoryError as error:
            return EncodedImage(name, error=str(error))


def missing_shards(folder: Path, plan: Plan, part: tuple[int, int] = (0, 1)) -> list[int]:
    """Return the shards of part (i, n) that are missing, corrupted, or have failures.

    Raises:
        ShardMismatchError: if a shard does not match the plan.
    """
    index, parts = part
    return [s for s in range(index, plan.shards, parts) if not _is_done(folder, plan, s)]


def _is_done(folder: Path, plan: Plan, shard: int) -> bool:
    try:
        reader = ShardReader(shard_path(folder, shard))
        reader.check(plan.of_shard(shard))
    except ShardMismatchError as error:
        raise ShardMismatchError(f"{error}; choose a new folder") from error
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
) -> Iterator[EncodedImage]:
    """Write shards of a store.

    Args:
        codec: codec; on the CPU if workers encode.
        plan: plan of the store.
        images: folder of the images.
        output: folder of the store.
        shards: indices of the shards.
        workers: processes that encode with one thread each; 0 to encode in this process.
        batch_size: for GPUs: images that this process encodes at a time, while workers only read
            images; 0 to let workers encode.

    Yields:
        each image once it is encoded, for progress and reports.
    """
    shards = list(shards)
    if not shards:  # start no workers
        return
    names = [image for shard in shards for image in plan.images_of(shard)]
    dataset = _Images(None if batch_size else codec, plan, images)
    items = load_in_workers(dataset, names, workers, method="spawn")
    encoded = _encode_in_batches(codec, plan, items, batch_size) if batch_size else items
    for shard in shards:
        done: list[EncodedImage] = []
        for image in itertools.islice(encoded, len(plan.images_of(shard))):
            done.append(image)
            yield image
        write_shard(
            shard_path(output, shard),
            plan.of_shard(shard),
            {name: record for image in done for name, record in image.records.items()},
            {image.name: image.error for image in done if image.error},
            {image.name: image.source for image in done if image.source},
        )


def _encode_in_batches(
    codec: Codec, plan: Plan, items: Iterator[EncodedImage], batch_size: int
) -> Iterator[EncodedImage]:
    while chunk := list(itertools.islice(items, batch_size)):
        try:
            yield from encode_images(codec, plan, chunk)
        except NoMemoryError as error:
            raise NoMemoryError(
                f"{len(chunk)} images at a time do not fit into memory: use a smaller batch"
            ) from error
