"""Random numbers that follow from where a training stands: to resume, nothing need be stored."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_all(*place: int) -> None:
    """Seed Python, numpy and PyTorch by numbers from 0, such as seed, iteration and rank."""
    state = int(np.random.SeedSequence(place).generate_state(1)[0])
    random.seed(state)
    np.random.seed(state)
    torch.manual_seed(state)


@contextmanager
def seeded(*place: int) -> Iterator[None]:
    """Random numbers of a place inside; outside, on the CPU, they go on as if nothing had been
    drawn."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            seed_all(*place)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
