"""The course of a distillation."""

import copy

import pytest
import torch

from cdl_d2.conversion import DistillationOptions, Preprocessing, distillation
from cdl_d2.conversion.distillation import Distillation
from cdl_d2.conversion.image_network import ImageNetwork
from cdl_d2.conversion.image_sets import draw_batches
from tests.conversion.networks import SIDE, Cifar

SQUARE = Preprocessing((0.5,) * 3, (0.25,) * 3, short_edge=SIDE, crop=SIDE)


IMAGES = [torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8, generator=torch.manual_seed(0))]


def distil(student, teacher, draw=lambda _: IMAGES, **options) -> list[dict[str, float]]:
    trained, fixed = (ImageNetwork(network, SQUARE) for network in (student, teacher))
    history = Distillation(trained, fixed, draw, [IMAGES], DistillationOptions(**options)).run()
    student.load_state_dict(trained.network.state_dict())
    return history


@pytest.fixture
def networks() -> tuple[Cifar, Cifar]:
    """A student that differs from its teacher in the first convolution."""
    torch.manual_seed(0)
    teacher = Cifar().eval()
    student = copy.deepcopy(teacher)
    torch.nn.init.normal_(student.conv1.weight)
    return student, teacher


@pytest.mark.parametrize(("patience", "last"), [(0, 20), (3, 16), (5, 20)])
def test_a_run_that_gets_no_better_ends_in_its_second_half(networks, patience, last):
    history = distil(*networks, iterations=20, learning_rate=0.0, patience=patience)
    assert history[-1]["iteration"] == last


@pytest.mark.parametrize("first_other", [8, 20])
def test_the_student_has_the_best_weights_of_the_second_half(networks, first_other):
    student, teacher = networks
    black = [torch.zeros_like(IMAGES[0])]
    options = {"iterations": 20, "learning_rate": 0.5, "patience": 0}
    history = distil(student, teacher, lambda i: IMAGES if i < first_other else black, **options)
    [reached] = distil(student, teacher, iterations=0)
    early, late = ([check["loss"] for check in half] for half in (history[:5], history[5:]))
    assert reached["loss"] == pytest.approx(min(late), rel=1e-4)
    assert (min(early) < min(late)) == (first_other == 8)


def test_a_validation_that_takes_the_rest_of_the_time_counts(networks, monkeypatch):
    student, teacher = networks
    seconds = [0.0]

    def draw(_):
        seconds[0] += 12
        return list(IMAGES)

    def run(self, images, plain=ImageNetwork.run):
        seconds[0] += 30 if images is IMAGES else 0
        return plain(self, images)

    monkeypatch.setattr(distillation.time, "monotonic", lambda: seconds[0])
    monkeypatch.setattr(ImageNetwork, "run", run)
    first, last = distil(student, teacher, draw, iterations=0, minutes=1, learning_rate=0.1)
    assert last["iteration"] == 1 and last["loss"] < first["loss"]
    [reached] = distil(student, teacher, iterations=0)
    assert reached["loss"] == pytest.approx(last["loss"], rel=1e-4)


def test_the_student_keeps_its_weights_if_none_are_better(networks):
    teacher = networks[1]
    student = copy.deepcopy(teacher)
    distil(student, teacher, lambda _: [torch.zeros_like(IMAGES[0])], iterations=4)
    assert all(map(torch.equal, student.state_dict().values(), teacher.state_dict().values()))


def test_images_of_a_batch_have_one_size(photos):
    options = DistillationOptions(batch_size=4)
    files = sorted(photos.iterdir())
    draw = draw_batches(files, Preprocessing((0.5,) * 3, (0.25,) * 3).augment, options)
    for iteration in range(3):
        assert len({image.shape for image in draw(iteration)}) == 1
