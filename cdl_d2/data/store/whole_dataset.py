"""Encoding all images of a data set, or this process's part, with progress."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from tqdm import tqdm

from cdl_d2.codec import Codec
from cdl_d2.data.store.encoding import close_store, encode_shards, missing_shards
from cdl_d2.data.store.plan import Plan
from cdl_d2.data.store.ray_encoding import encode_shards_with_ray
from cdl_d2.data.store.verification import changed_images
from cdl_d2.errors import CdlError
from cdl_d2.files import write_text
from cdl_d2.workers import usable_cores


def encode_dataset(
    codec: Codec,
    plan: Plan,
    images: Path,
    output: Path,
    report: Callable[[str], None],
    *,
    part: tuple[int, int] = (0, 1),
    workers: int | None = None,
    batch_size: int = 8,
    device: str = "cpu",
    with_ray: bool = False,
    renew: bool = False,
) -> tuple[int, dict[str, str] | None]:
    """Encode what is missing of a store, and close it if nothing is missing any more.

    Args:
        images: the folder that the plan's paths are relative to.
        report: is called with each image that fails, and why.
        part: (i, n), see missing_shards.
        workers: processes; None for one a core, 0 for none.
        batch_size: images at a time, on a GPU.
        device: to encode on, without Ray.
        with_ray: on the cluster that this machine is in, see encode_shards_with_ray.
        renew: encode shards anew whose images have changed since; and take the annotation file as
            the store's.

    Returns:
        how many images failed here; and those of the whole store that failed, and why, or None if
        other parts are missing.

    Raises:
        CdlError, OSError: if the folder has another store, or shards of other images, or another
            annotation file; or cannot be written.
    """
    plan.save(output)
    begun = Plan.load(output)  # the same, of the format in which the store was begun
    if renew and plan.annotations not in ("", begun.annotations):
        begun = replace(begun, annotations=plan.annotations)
        write_text(output / "plan.json", json.dumps(asdict(begun)))
    begun.check_annotations(plan.annotations, output)
    plan = begun
    on_gpu = torch.device(device).type != "cpu" and not with_ray
    workers = usable_cores() if workers is None else workers
    missing = missing_shards(output, plan, part)
    changed = _changed_shards(output, plan, images, renew)
    shards = sorted({*missing, *(s for s in changed if s % part[1] == part[0])})
    if shards:
        (output / "manifest.json").unlink(missing_ok=True)  # until all of them are written
    if with_ray and shards:
        steps = encode_shards_with_ray(codec, plan, images, output, shards, max(workers, 1))
    else:
        encoded = encode_shards(
            codec.on(device) if on_gpu else codec,
            plan,
            images,
            output,
            shards,
            workers,
            batch_size if on_gpu else 0,
        )
        steps = ((1, [f"{e.image}: {e.error}"] if e.error else []) for e in encoded)
    failed, total = 0, sum(len(plan.images_of(shard)) for shard in shards)
    with tqdm(total=total, unit="image", disable=not total) as progress:
        for count, errors in steps:
            progress.update(count)
            failed += len(errors)
            for error in errors:
                report(error)
    if _changed_shards(output, plan, images, renew):  # other parts have still to renew theirs
        return failed, None
    return failed, close_store(output, plan)


def _changed_shards(output: Path, plan: Plan, images: Path, renew: bool) -> list[int]:
    """The shards whose images have changed, or are of another folder.

    Raises:
        CdlError: if there are some that may not be renewed.
    """
    changed = changed_images(output, plan, images, quick=not renew)
    if changed and not renew:
        how = next(iter(next(iter(changed.values())).values()))
        raise CdlError(
            f"{len(changed)} shards of {output} are of other images ({how}): give --renew to "
            "encode these anew, or take a new folder"
        )
    return list(changed)
