"""Encoding of a data set, or of this process's part of it, into a latent store with progress."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from cdl_d2.codec import Codec
from cdl_d2.data.store.encoding import close_store, encode_shards, missing_shards
from cdl_d2.data.store.plan import Plan, StaleStoreError
from cdl_d2.data.store.ray_encoding import encode_shards_with_ray
from cdl_d2.data.store.verification import changed_images
from cdl_d2.files import write_text
from cdl_d2.workers import usable_cores


@dataclass(frozen=True)
class Resources:
    """Hardware to encode with.

    Attributes:
        workers: number of processes; None for one per core, 0 for none.
        device: device of the codec, without Ray.
        batch_size: images per batch on a GPU.
        with_ray: whether to use the CPUs of the Ray cluster of this machine.
    """

    workers: int | None = None
    device: str = "cpu"
    batch_size: int = 8
    with_ray: bool = False


def encode_dataset(
    codec: Codec,
    plan: Plan,
    images: Path,
    output: Path,
    report: Callable[[str], None],
    *,
    part: tuple[int, int] = (0, 1),
    resources: Resources = Resources(),
    renew: bool = False,
) -> tuple[int, dict[str, str] | None]:
    """Encode the missing shards of a store, and close the store if none is missing any more.

    Args:
        codec: codec, on the CPU.
        plan: plan of the store.
        images: folder of the images.
        output: folder of the store.
        report: function that is called with the error of each image that fails.
        part: (i, n): encode every n-th shard, beginning with the i-th.
        resources: hardware to encode with.
        renew: encode shards again whose images have changed, and accept changed annotations.

    Returns:
        number of images that failed, and the errors of the whole store by image; None instead of
        these if other parts are missing.

    Raises:
        StaleStoreError: if images or annotations have changed, without `renew`.
        CdlError: if the folder has another store.
        OSError: if it cannot be written.
    """
    plan = _begin_store(plan, output, renew)
    missing = missing_shards(output, plan, part)
    changed = _changed_shards(output, plan, images, renew)
    shards = sorted({*missing, *(shard for shard in changed if shard % part[1] == part[0])})
    if shards:
        (output / "manifest.json").unlink(missing_ok=True)  # until all of them are written
    failed, total = 0, sum(len(plan.images_of(shard)) for shard in shards)
    with tqdm(total=total, unit="image", disable=not total) as progress:
        for count, errors in _encode(codec, plan, images, output, shards, resources):
            progress.update(count)
            failed += len(errors)
            for error in errors:
                report(error)
    if _changed_shards(output, plan, images, renew):  # other parts have not renewed theirs
        return failed, None
    return failed, close_store(output, plan)


def _begin_store(plan: Plan, output: Path, renew: bool) -> Plan:
    """Write the plan, or return the store's own, which may have an earlier format."""
    plan.save(output)
    stored = Plan.load(output)
    if renew and plan.annotations not in ("", stored.annotations):
        stored = replace(stored, annotations=plan.annotations)
        write_text(output / "plan.json", json.dumps(asdict(stored)))
    stored.check_annotations(plan.annotations, output)
    return stored


def _encode(
    codec: Codec, plan: Plan, images: Path, output: Path, shards: list[int], resources: Resources
) -> Iterator[tuple[int, list[str]]]:
    """Write shards; yield numbers of images and their errors."""
    workers = usable_cores() if resources.workers is None else resources.workers
    if resources.with_ray and shards:
        yield from encode_shards_with_ray(codec, plan, images, output, shards, max(workers, 1))
        return
    batch_size = 0
    if torch.device(resources.device).type != "cpu":
        codec, batch_size = codec.on(resources.device), resources.batch_size
    for image in encode_shards(codec, plan, images, output, shards, workers, batch_size):
        yield 1, [f"{image.name}: {image.error}"] if image.error else []


def _changed_shards(output: Path, plan: Plan, images: Path, renew: bool) -> list[int]:
    """Return the shards whose images have changed; raise StaleStoreError unless `renew`."""
    changed = changed_images(output, plan, images, quick=not renew)
    if changed and not renew:
        change = next(iter(next(iter(changed.values())).values()))
        raise StaleStoreError(f"{len(changed)} shards of {output} are of other images ({change})")
    return list(changed)
