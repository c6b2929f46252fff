"""Encoding a whole data set into a latent store, shard by shard.

A shard is written when its last image is done, so a run that is killed loses at most the shards it
was working on, and the next run does what is missing. Runs on several machines take different
shards of the same folder; whoever finds all of them there writes the manifest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from cdl_d2.codec import Codec
from cdl_d2.codec.image_files import read_image
from cdl_d2.data.latent_store import Plan, record_name, shard_path, write_manifest
from cdl_d2.data.shard import Record, ShardReader, pack_cells, write_shard


@dataclass(frozen=True)
class Encoded:
    """An image's records by name, or why there are none."""

    image: str
    records: dict[str, Record]
    error: str = ""


def encode_image(codec: Codec, plan: Plan, images: Path, image: str) -> Encoded:
    """All variants of one image."""
    try:
        original = read_image(images / image)
        variants = [variant.apply(original) for variant in plan.variants]
        return Encoded(
            image,
            {
                record_name(image, i): encode_variant(codec, plan.form, pixels)
                for i, pixels in enumerate(variants)
            },
        )
    except (OSError, ValueError) as error:
        return Encoded(image, {}, str(error))


def encode_variant(codec: Codec, form: str, pixels: torch.Tensor) -> Record:
    """A record of 3 x H x W, uint8."""
    device = next(codec.parameters()).device
    floats = pixels.to(device).float() / 255
    if form == "arrays":
        latent = codec.encode(floats)
        return pack_cells(latent.cells, latent.image_size, latent.total_bits)
    content = codec.compress(floats).to_bytes()
    size = tuple(pixels.shape[1:])
    return Record(content, "bitstream", codec.latent_channels, size, 8 * len(content))


class _Images(Dataset):
    """Item i is image i of the list, encoded."""

    def __init__(self, codec: Codec, plan: Plan, folder: Path, images: list[str]):
        self.codec, self.plan, self.folder, self.images = codec, plan, folder, images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Encoded:
        return encode_image(self.codec, self.plan, self.folder, self.images[index])


def missing_shards(folder: Path, plan: Plan, part: tuple[int, int] = (0, 1)) -> list[int]:
    """The shards of part i of n that are not written yet, or were written with failures."""
    index, parts = part
    mine = range(index, plan.shards, parts)
    return [s for s in mine if not _is_finished(shard_path(folder, s))]


def encode_shards(
    codec: Codec, plan: Plan, images: Path, output: Path, shards: Iterable[int], workers: int
) -> Iterator[Encoded]:
    """Write shards of a store; gives each image when it is encoded, for progress and reports.

    Args:
        codec: on the CPU; each of `workers` processes uses one thread. With 0 workers this process
            encodes, on the codec's device.
        images: the folder that the plan's paths are relative to.
        output: the store's folder.
    """
    shards = list(shards)
    names = [image for shard in shards for image in plan.images_of(shard)]
    loader = DataLoader(
        _Images(codec, plan, images, names),
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        collate_fn=_as_it_is,
        worker_init_fn=_one_thread,
    )
    encoded = iter(loader)
    for shard in shards:
        records: dict[str, Record] = {}
        failures: dict[str, str] = {}
        for _ in plan.images_of(shard):
            done = next(encoded)
            records |= done.records
            if done.error:
                failures[done.image] = done.error
            yield done
        write_shard(shard_path(output, shard), records, failures)


def close_store(output: Path, plan: Plan) -> dict[str, str] | None:
    """Write the manifest if all shards are there.

    Returns:
        the images that failed, and why; None if shards are missing.
    """
    if not all(shard_path(output, shard).exists() for shard in range(plan.shards)):
        return None
    return write_manifest(output, plan)


def _is_finished(path: Path) -> bool:
    return path.exists() and not ShardReader(path).failures


def _as_it_is(item: Encoded) -> Encoded:
    return item


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)
