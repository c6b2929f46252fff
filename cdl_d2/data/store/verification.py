"""Whether a latent store is what its plan says: whole, undamaged, and of the images of today."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cdl_d2.data.store.image_source import SourceComparison
from cdl_d2.data.store.latent_store import read_manifest, shard_path
from cdl_d2.data.store.plan import Plan
from cdl_d2.data.store.shard import OtherStoreError, ShardReader
from cdl_d2.errors import CdlError
from cdl_d2.files import sha256_of

AGAIN = "run the `cdl data encode` that made the store again"


def verify_store(
    folder: Path, images: Path | None = None, quick: bool = False, annotations: Path | None = None
) -> Iterator[str]:
    """What is wrong with a store, and what to do about it, a line each.

    Args:
        images: the folder that it was encoded from, to find images that have changed since.
        quick: look at what shards say of themselves and at sizes, not at all their bytes; and at
            the content of few images.
        annotations: the file that named the images, to find out whether it has changed since.

    Raises:
        FileNotFoundError, CdlError: if the folder is no store.
    """
    plan = Plan.load(folder)
    if annotations is not None:
        try:
            plan.check_annotations(sha256_of(annotations), folder)
        except CdlError as error:
            yield f"{annotations}: {error}"
    try:
        manifest = read_manifest(folder)["shards"]
    except (FileNotFoundError, CdlError) as error:
        yield str(error)
        manifest = [{}] * plan.shards
    for shard in range(plan.shards):
        path = shard_path(folder, shard)
        try:
            reader = ShardReader(path)
            reader.check(plan.of_shard(shard), thorough=not quick)
        except OtherStoreError as error:
            yield f"{error}; remove that file, and {AGAIN}"
            continue
        except (FileNotFoundError, CdlError) as error:
            yield str(error)
            continue
        expected = manifest[shard] if shard < len(manifest) else {}
        resized = path.stat().st_size != expected.get("bytes", path.stat().st_size)
        if resized or (not quick and expected and sha256_of(path) != expected["sha256"]):
            yield f"{path} is not the one that the manifest names: {AGAIN}"
        for image, reason in reader.failures.items():
            yield f"{image} could not be encoded ({reason}): mend it, and {AGAIN}"
    if images is not None:
        for changed in changed_images(folder, plan, images, quick).values():
            for how in changed.values():
                yield f"{how}: {AGAIN}, with --renew"


def changed_images(
    folder: Path, plan: Plan, images: Path, quick: bool = True
) -> dict[int, dict[str, str]]:
    """By shard, the images that are not what was encoded, and how; damaged shards have none."""
    compare, found = SourceComparison(quick), {}
    for shard in range(plan.shards):
        try:
            changed = compare.changed(ShardReader(shard_path(folder, shard)).sources, images)
        except (FileNotFoundError, CdlError):
            continue
        if changed:
            found[shard] = changed
    return found
