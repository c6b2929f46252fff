import random

import numpy as np
import torch

from cdl_d2.seeds import seed_all, seeded


def draw():
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_equal_numbers_seed_equally_and_others_differently():
    def numbers(*seeds):
        seed_all(*seeds)
        return draw()

    assert numbers(1, 2, 3) == numbers(1, 2, 3)
    assert len({numbers(1, 2, 3), numbers(1, 3, 2), numbers(2, 2, 3), numbers(1, 2, 3, 1)}) == 4


def test_random_numbers_inside_do_not_affect_those_outside():
    seed_all(1)
    expected = draw(), draw()
    seed_all(1)
    first = draw()
    with seeded(2):
        inside = draw()
    assert (first, draw()) == expected
    with seeded(2):
        assert draw() == inside
