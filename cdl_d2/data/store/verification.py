"""Verification of a latent store: complete, not corrupted, and of the current images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cdl_d2.data.store.image_source import SourceComparison
from cdl_d2.data.store.latent_store import read_manifest, shard_path
from cdl_d2.data.store.plan import Plan, StaleStoreError
from cdl_d2.data.store.shard import ShardMismatchError, ShardReader
from cdl_d2.errors import CdlError
from cdl_d2.files import sha256_of


def verify_store(
    folder: Path, images: Path | None = None, quick: bool = False, annotations: Path | None = None
) -> Iterator[str]:
    """Yield the problems of a store, one line each.

    Args:
        folder: folder of the store.
        images: folder of the images, to detect changes since they were encoded.
        quick: check plans and sizes only, and the content of a few images.
        annotations: annotation file that lists the images, to detect changes.

    Raises:
        FileNotFoundError, CdlError: if the folder is not a store.
    """
    plan = Plan.load(folder)
    if annotations is not None:
        try:
            plan.check_annotations(sha256_of(annotations), folder)
        except StaleStoreError as error:
            yield f"{annotations} has changed: {error}"
        except CdlError as error:
            yield f"{annotations}: {error}"
    try:
        manifest = read_manifest(folder)["shards"]
    except (FileNotFoundError, CdlError) as error:
        yield str(error)
        manifest = []
    for shard in range(plan.shards):
        yield from _verify_shard(folder, plan, shard, manifest[shard : shard + 1], quick)
    if images is not None:
        for changes in changed_images(folder, plan, images, quick).values():
            yield from changes.values()


def _verify_shard(
    folder: Path, plan: Plan, shard: int, manifest: list[dict], quick: bool
) -> Iterator[str]:
    path = shard_path(folder, shard)
    try:
        reader = ShardReader(path)
        reader.check(plan.of_shard(shard), thorough=not quick)
    except ShardMismatchError as error:
        yield f"{error}; remove this file"
        return
    except (FileNotFoundError, CdlError) as error:
        yield str(error)
        return
    for expected in manifest:
        has_size = path.stat().st_size == expected["bytes"]
        if not has_size or (not quick and sha256_of(path) != expected["sha256"]):
            yield f"{path} does not match the manifest"
    for image, reason in reader.failures.items():
        yield f"{image} could not be encoded ({reason}): fix it"


def changed_images(
    folder: Path, plan: Plan, images: Path, quick: bool = True
) -> dict[int, dict[str, str]]:
    """Return how images have changed since they were encoded, by shard and image.

    Shards without changes, and corrupted ones, are left out.
    """
    comparison, changes = SourceComparison(quick), dict[int, dict[str, str]]()
    for shard in range(plan.shards):
        try:
            sources = ShardReader(shard_path(folder, shard)).sources
        except (FileNotFoundError, CdlError):
            continue
        for image, source in sources.items():
            if change := comparison.describe_change(source, images / image):
                changes.setdefault(shard, {})[image] = change
    return changes
