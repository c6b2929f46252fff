"""Encoding into a latent store on a Ray cluster: one task per shard, into a shared folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from cdl_d2.codec import Codec
from cdl_d2.data.store.encoding import encode_shards
from cdl_d2.data.store.plan import Plan
from cdl_d2.ray_actors import map_on_ray


def encode_shards_with_ray(
    codec: Codec, plan: Plan, images: Path, output: Path, shards: Iterable[int], workers: int
) -> Iterator[tuple[int, list[str]]]:
    """Write shards of a store with `encode_shards` on a Ray cluster.

    Every machine must reach the folders; workers are actors of one core each.

    Yields:
        for each shard, its number of images and the errors of those that failed.

    Raises:
        MissingPackageError: if Ray is not installed.
    """
    arguments = codec, plan, images.resolve(), output.resolve()
    return map_on_ray(_shard_encoder, arguments, shards, workers)


def _shard_encoder(
    codec: Codec, plan: Plan, images: Path, output: Path
) -> Callable[[int], tuple[int, list[str]]]:
    def encode(shard: int) -> tuple[int, list[str]]:
        encoded = list(encode_shards(codec, plan, images, output, [shard], workers=0))
        return len(encoded), [f"{e.name}: {e.error}" for e in encoded if e.error]

    return encode
