import random

import numpy as np
import torch

from cdl_d2.seeds import seed_all, seeded


def draw():
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_a_place_gives_the_same_numbers_again_and_another_place_others():
    def numbers(*place):
        seed_all(*place)
        return draw()

    assert numbers(1, 2, 3) == numbers(1, 2, 3)
    assert len({numbers(1, 2, 3), numbers(1, 3, 2), numbers(2, 2, 3), numbers(1, 2, 3, 1)}) == 4


def test_what_is_drawn_inside_changes_nothing_outside():
    seed_all(1)
    expected = draw(), draw()
    seed_all(1)
    first = draw()
    with seeded(2):
        inside = draw()
    assert (first, draw()) == expected
    with seeded(2):
        assert draw() == inside
