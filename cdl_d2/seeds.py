"""Random numbers as a function of seed, iteration and rank: resuming needs no stored state."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_all(*numbers: int) -> None:
    """Seed Python, numpy and PyTorch with numbers >= 0, such as seed, iteration and rank."""
    torch.manual_seed(_seed_cpu(numbers))


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seed the CPU's generators inside the block, and restore their states afterwards.

    Generators of other devices are not affected.
    """
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            _seed_cpu(numbers)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _seed_cpu(numbers: tuple[int, ...]) -> int:
    """Seed Python, numpy and PyTorch's CPU generator; return the seed."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    return seed
