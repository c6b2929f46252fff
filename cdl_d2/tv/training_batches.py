"""The order of images in a training."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from torch.utils.data import Sampler


class TrainingBatches(Sampler[list[tuple[int, int]]]):
    """Endless shuffled batches, a pure function of the seed: any iteration can be the first.

    Args:
        images: number of images.
        variants: number of variants; one per image, at random.
        batch_size: images per batch of this process.
        iterations: first (included) and last (excluded) iteration.
        rank: rank of this process.
        world_size: number of processes, which share the images.
    """

    def __init__(
        self,
        images: int,
        variants: int,
        batch_size: int,
        seed: int,
        iterations: tuple[int, int],
        rank: int = 0,
        world_size: int = 1,
    ):
        self._images, self._variants, self._batch_size = images, variants, batch_size
        self._seed, self._iterations = seed, iterations
        self._rank, self._world_size = rank, world_size
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def __len__(self) -> int:
        return self._iterations[1] - self._iterations[0]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for iteration in range(*self._iterations):
            first = (iteration * self._world_size + self._rank) * self._batch_size
            yield [self._draw(first + i) for i in range(self._batch_size)]

    def _draw(self, position: int) -> tuple[int, int]:
        epoch, index = divmod(position, self._images)
        variant = np.random.default_rng([self._seed, 1, position]).integers(self._variants)
        return int(self._order(epoch)[index]), int(variant)

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, 0, epoch]).permutation(self._images)
