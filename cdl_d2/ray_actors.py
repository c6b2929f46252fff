"""Work on a Ray cluster, spread over actors that set up once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cdl_d2.errors import imports_of_extra

RETRIES = 3  # of a task whose process or machine was lost


class _Actor:
    def __init__(self, set_up: Callable[..., Callable[[Any], Any]], *arguments: Any):
        import torch

        torch.set_num_threads(1)
        self._work = set_up(*arguments)

    def run(self, item: Any) -> Any:
        return self._work(item)


def map_on_ray(
    set_up: Callable[..., Callable[[Any], Any]],
    arguments: tuple[Any, ...],
    items: Iterable[Any],
    workers: int,
    gpus: int = 0,
) -> Iterator[Any]:
    """Yield the results of a function for each item, in the order in which they are ready.

    Args:
        set_up: called once per actor with `arguments`, on its machine; returns the function.
        arguments: arguments of `set_up`, which are pickled.
        items: each is one task.
        workers: number of actors, of one core each.
        gpus: GPUs per actor.

    Raises:
        MissingPackageError: if Ray is not installed.
    """
    with imports_of_extra("ray"):
        import ray
        from ray.util import ActorPool
    options = {"num_cpus": 1, "num_gpus": gpus}
    remote = ray.remote(max_restarts=RETRIES, max_task_retries=RETRIES, **options)(_Actor)
    actors = [remote.remote(set_up, *arguments) for _ in range(workers)]
    yield from ActorPool(actors).map_unordered(lambda actor, item: actor.run.remote(item), items)
