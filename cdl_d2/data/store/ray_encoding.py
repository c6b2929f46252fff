"""The bulk encoder on a Ray cluster: a task a shard, all writing to one shared folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from cdl_d2.codec import Codec
from cdl_d2.data.store.encoding import encode_shards
from cdl_d2.data.store.plan import Plan
from cdl_d2.errors import imports_of_extra


class _ShardEncoder:
    """Encodes the shards that it is given; an actor on some machine, with a codec of its own."""

    def __init__(self, codec: Codec, plan: Plan, images: Path, output: Path):
        torch.set_num_threads(1)
        self._arguments = codec, plan, images, output

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        done = list(encode_shards(*self._arguments, [int(row["shard"])], workers=0))
        errors = [f"{e.image}: {e.error}" for e in done if e.error]
        return {"images": len(done), "errors": "\n".join(errors)}


def encode_shards_with_ray(
    codec: Codec, plan: Plan, images: Path, output: Path, shards: Iterable[int], workers: int
) -> Iterator[tuple[int, list[str]]]:
    """Write shards of a store with Ray Data; see `encode_shards`, which does the work.

    Args:
        images, output: absolute paths that mean the same on every machine.
        workers: actors of one core each.

    Returns:
        for each shard, how many images it has, and what went wrong with some of them.

    Raises:
        MissingPackageError: if Ray is not installed.
    """
    with imports_of_extra("ray"):
        import ray.data
    rows = [{"shard": shard} for shard in shards]
    encoded = ray.data.from_items(rows, override_num_blocks=max(len(rows), 1)).map(
        _ShardEncoder,
        fn_constructor_args=(codec, plan, images.resolve(), output.resolve()),
        concurrency=workers,
        num_cpus=1,
    )
    for row in encoded.iter_rows():
        yield row["images"], row["errors"].splitlines()
