"""Random numbers that follow from where a training stands: to resume, nothing need be stored."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_all(*place: int) -> None:
    """Seed Python, numpy and PyTorch by numbers from 0, such as seed, iteration and rank."""
    torch.manual_seed(_seed_cpu(place))


@contextmanager
def seeded(*place: int) -> Iterator[None]:
    """Draw the CPU's random numbers of a place inside; outside they go on as if nothing had been
    drawn. Those of other devices go on inside, too."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            _seed_cpu(place)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _seed_cpu(place: tuple[int, ...]) -> int:
    """Seed Python, numpy and PyTorch's generator of the CPU; return the seed."""
    state = int(np.random.SeedSequence(place).generate_state(1)[0])
    random.seed(state)
    np.random.seed(state)
    torch.default_generator.manual_seed(state)
    return state
