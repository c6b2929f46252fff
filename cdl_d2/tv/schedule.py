"""Length, learning rate and order of the images of a training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from torch.utils.data import Sampler

from cdl_d2.errors import CdlError


@dataclass(frozen=True)
class Schedule:
    """Stochastic gradient descent with momentum 0.9, linear warmup and steps of 0.1.

    Attributes:
        iterations: number of steps; with 0, a bridge is fitted and nothing is trained.
        batch_size: images per step, over all processes.
        learning_rate: learning rate after the warmup.
        warmup: number of iterations of linear growth.
        decays: fractions of the iterations at which the rate drops to a tenth; by default 210,000
            and 250,000 of 270,000 (appendix A.4 of *Learning in Compressed Domain via Knowledge
            Transfer*).
        weight_decay: L2 penalty of the optimizer.
        clip: largest norm of the gradient.
    """

    iterations: int = 270_000
    batch_size: int = 16
    learning_rate: float = 0.02
    warmup: int = 1000
    decays: tuple[float, ...] = (210 / 270, 250 / 270)
    weight_decay: float = 1e-4
    clip: float = 10.0

    def __post_init__(self) -> None:
        for name, least in (("iterations", 0), ("batch_size", 1), ("warmup", 0)):
            if getattr(self, name) < least:
                raise CdlError(f"{name} {getattr(self, name)}: at least {least} is needed")
        if not 0 < self.learning_rate < math.inf:
            raise CdlError(f"learning_rate {self.learning_rate} is not a positive number")

    def rate(self, iteration: int) -> float:
        """Return the learning rate of an iteration."""
        decays = sum(iteration >= round(part * self.iterations) for part in self.decays)
        warm = min(1.0, (iteration + 1) / max(self.warmup, 1))
        return self.learning_rate * warm * 0.1**decays


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
