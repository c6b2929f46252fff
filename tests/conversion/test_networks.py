"""Conversions of networks of several libraries."""

import pytest
import torch

from cdl_d2.conversion import Conversion, DistillationOptions, Preprocessing
from cdl_d2.conversion.losses import named_tensors
from tests.conversion.networks import (
    ANY_SIZE,
    CLASSIFIERS,
    DETECTORS,
    OF_PATCHES,
    PATCHES_SIDE,
    SEGMENTORS,
    SIDE,
)

SHORT = DistillationOptions(iterations=1, batch_size=2)


def half(**size) -> Preprocessing:
    return Preprocessing((0.5,) * 3, (0.25,) * 3, **size)


def shapes(output) -> list[tuple[str, torch.Size]]:
    return [(name, tensor.shape) for name, tensor in named_tensors(output)]


@pytest.fixture(scope="module")
def converted(codec, photos):
    """The function from a network's name to its RGB network, Conversion and LatentNetwork."""
    kept = {}

    def convert(name):
        if name not in kept:
            torch.manual_seed(0)
            network = (ANY_SIZE | OF_PATCHES)[name]()
            side = PATCHES_SIDE if name in OF_PATCHES else SIDE
            size = {"short_edge": side, "crop": 0 if name in DETECTORS else side}
            conversion = Conversion(network, codec, photos, half(**size))
            kept[name] = network, conversion, conversion.to_latents(SHORT)
        return kept[name]

    return convert


@pytest.mark.parametrize("name", ANY_SIZE | OF_PATCHES)
def test_a_network_of_any_kind_is_converted_and_stays_as_it_is(name, converted):
    torch.manual_seed(0)
    fresh = (ANY_SIZE | OF_PATCHES)[name]()
    network, conversion, student = converted(name)
    learns = [p.requires_grad for p in fresh.parameters()]
    state = torch.get_rng_state()
    losses = [values["loss"] for values in conversion.history]
    best = min(losses)
    assert len(losses) > 1 and best <= losses[0] and 0.3 < conversion.explained <= 1
    assert network.training == fresh.training
    assert [p.requires_grad for p in network.parameters()] == learns
    weights = network.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in fresh.state_dict().items())
    assert student.bridge.is_fitted and not any(p.requires_grad for p in student.parameters())
    images = [conversion.read(file) for file in conversion.kept_aside[:2]]
    with torch.no_grad():
        expected, output = conversion.teacher.run(images), student.run(images)
    if name not in DETECTORS:
        assert shapes(output) == shapes(expected)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", [*CLASSIFIERS, *SEGMENTORS])
@pytest.mark.parametrize("size", [(48, 64), (53, 39)])
def test_outputs_have_the_rgb_networks_sizes(name, size, converted):
    _, conversion, student = converted(name)
    images = list(torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8))
    with torch.no_grad():
        assert shapes(student.run(images)) == shapes(conversion.teacher.run(images))
