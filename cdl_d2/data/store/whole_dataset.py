"""Encoding of a data set, or of this process's part of it, into a latent store with progress."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from tqdm import tqdm

from cdl_d2.codec import Codec
from cdl_d2.data.store.encoding import EncodedImage, encode_shards, missing_shards
from cdl_d2.data.store.latent_store import close_store
from cdl_d2.data.store.plan import Plan, StaleStoreError
from cdl_d2.data.store.verification import changed_images
from cdl_d2.files import write_text
from cdl_d2.ray_actors import map_on_ray
from cdl_d2.workers import usable_cores


def encode_dataset(
    codec: Codec,
    plan: Plan,
    images: Path,
    output: Path,
    report: Callable[[str], None],
    *,
    part: tuple[int, int] = (0, 1),
    renew: bool = False,
    workers: int | None = None,
    device: str = "cpu",
    batch_size: int = 8,
    with_ray: bool = False,
) -> tuple[int, dict[str, str] | None]:
    """Encode the missing shards of a store, and close the store if none is missing any more.

    Args:
        codec: codec, on the CPU.
        plan: plan of the store.
        images: folder of the images.
        output: folder of the store.
        report: function that is called with the error of each image that fails.
        part: (i, n): encode every n-th shard, beginning with the i-th.
        renew: encode shards again whose images have changed, and accept changed annotations.
        workers: number of processes; None for one per core, 0 for none.
        device: device of the codec, without Ray.
        batch_size: images per batch on a GPU.
        with_ray: use the CPUs of the Ray cluster of this machine, one per worker; all its machines
            must reach the folders.

    Returns:
        number of images that failed, and the errors of the whole store by image; None instead of
        these if other parts are missing.

    Raises:
        StaleStoreError: if images or annotations have changed, without `renew`.
        CdlError: if the folder has another store.
        OSError: if it cannot be written.
        MissingPackageError: if Ray is needed and not installed.
    """
    plan = _begin_store(plan, output, renew)
    missing = missing_shards(output, plan, part)
    changed = _changed_shards(output, plan, images, renew)
    shards = sorted({*missing, *(shard for shard in changed if shard % part[1] == part[0])})
    if shards:
        (output / "manifest.json").unlink(missing_ok=True)  # until all of them are written
    workers = usable_cores() if workers is None else workers
    if with_ray and shards:
        arguments = codec, plan, images.resolve(), output.resolve()
        encoded = map_on_ray(_shard_encoder, arguments, shards, max(workers, 1))
    else:
        on_cpu = torch.device(device).type == "cpu"
        codec, batch_size = (codec, 0) if on_cpu else (codec.on(device), batch_size)
        one_by_one = encode_shards(codec, plan, images, output, shards, workers, batch_size)
        encoded = ([image] for image in one_by_one)
    failed, total = 0, sum(len(plan.images_of(shard)) for shard in shards)
    with tqdm(total=total, unit="image", disable=not total) as progress:
        for done in encoded:
            progress.update(len(done))
            errors = [f"{image.name}: {image.error}" for image in done if image.error]
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


def _shard_encoder(
    codec: Codec, plan: Plan, images: Path, output: Path
) -> Callable[[int], list[EncodedImage]]:
    """Return the function by which an actor writes a shard; it returns images without records."""

    def encode(shard: int) -> list[EncodedImage]:
        encoded = encode_shards(codec, plan, images, output, [shard], workers=0)
        return [replace(image, records={}) for image in encoded]

    return encode


def _changed_shards(output: Path, plan: Plan, images: Path, renew: bool) -> list[int]:
    """Return the shards whose images have changed; raise StaleStoreError unless `renew`."""
    changed = changed_images(output, plan, images, quick=not renew)
    if changed and not renew:
        change = next(iter(next(iter(changed.values())).values()))
        raise StaleStoreError(f"{len(changed)} shards of {output} are of other images ({change})")
    return list(changed)
