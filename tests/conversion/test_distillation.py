"""The course of a distillation."""

import copy

import pytest
import torch

from cdl_d2.conversion import DistillationOptions, Preprocessing
from cdl_d2.conversion.distillation import Distillation
from cdl_d2.conversion.image_network import ImageNetwork
from cdl_d2.conversion.image_sets import draw_batches
from tests.conversion.networks import SIDE, Cifar

SQUARE = Preprocessing((0.5,) * 3, (0.25,) * 3, short_edge=SIDE, crop=SIDE)


@pytest.mark.parametrize(("patience", "last"), [(0, 20), (3, 16), (5, 20)])
def test_a_run_that_gets_no_better_ends_in_its_second_half(patience, last):
    torch.manual_seed(0)
    teacher = Cifar().eval()
    student = copy.deepcopy(teacher)
    torch.nn.init.normal_(student.conv1.weight)
    images = [torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8)]
    options = DistillationOptions(iterations=20, learning_rate=0.0, patience=patience)
    run = Distillation(
        *(ImageNetwork(network, SQUARE) for network in (student, teacher)),
        lambda iteration: images,
        [images],
        options,
    )
    assert run.run()[-1]["iteration"] == last


def test_images_of_a_batch_have_one_size(photos):
    options = DistillationOptions(batch_size=4)
    files = sorted(photos.iterdir())
    draw = draw_batches(files, Preprocessing((0.5,) * 3, (0.25,) * 3).augment, options)
    for iteration in range(3):
        assert len({image.shape for image in draw(iteration)}) == 1
