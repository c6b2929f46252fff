"""The device itself refuses what a GPU refuses."""

import copy
import io
import multiprocessing

import numpy as np
import pytest
import torch

from tests.second_device import NAME


@pytest.fixture
def x():
    return torch.arange(6.0).reshape(3, 2).to(NAME)


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x + torch.ones(3, 2),
        lambda x: x[0, 0] + torch.ones(3),
        lambda x: torch.stack([x[0, 0], torch.tensor(1.0)]),
        lambda x: torch.cat([x, torch.ones(1, 2)]),
        lambda x: torch.ones(3)[torch.tensor([0], device=NAME)],
        lambda x: torch.nn.functional.linear(x, torch.ones(1, 2)),
        lambda x: torch.equal(x, torch.ones(3, 2)),
        lambda x: x.index_put_((torch.tensor([0]),), torch.ones(1, 2)),
    ],
)
def test_tensors_of_two_devices_do_not_mix(x, mix):
    with pytest.raises(RuntimeError, match="on the same device"):
        mix(x)


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x * torch.tensor(2.0),
        lambda x: x[torch.tensor([0, 1])],
        lambda x: x[[0, 2]],
        lambda x: x.masked_fill(x > 2, torch.tensor(0.0)),
        lambda x: x.clone().index_put_((torch.tensor([0]),), torch.tensor(1.0)),
        lambda x: x.clone().copy_(torch.ones(3, 2)),
        lambda x: x.new_tensor([1, 2]),
        lambda x: torch.as_tensor(np.ones(2), device=x.device),
        lambda x: torch.arange(3, device=x.device),
        lambda x: x.t().unsqueeze_(0),
    ],
)
def test_numbers_indices_and_copies_cross_and_the_result_is_on_the_device(x, mix):
    assert mix(x).device.type == NAME
    assert torch.ones(3, 2).copy_(x).device.type == "cpu"


@pytest.mark.parametrize("cross", [torch.Tensor.numpy, np.asarray])
def test_values_come_back_by_a_copy_only(x, cross):
    with pytest.raises((TypeError, RuntimeError)):
        cross(x)
    assert np.array_equal(x.cpu().numpy(), np.arange(6).reshape(3, 2))


def test_gradients_are_those_of_the_cpu():
    torch.manual_seed(0)
    here = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU())
    there, image = copy.deepcopy(here).to(NAME), torch.rand(2, 3, 8, 8)
    here(image).square().sum().backward()
    there(image.to(NAME)).square().sum().backward()
    for ours, theirs in zip(here.parameters(), there.parameters(), strict=True):
        assert theirs.grad.device.type == NAME and torch.equal(ours.grad, theirs.grad.cpu())


def test_the_device_has_random_numbers_of_its_own():
    torch.manual_seed(1)
    first = torch.rand(3, device=NAME)
    here = torch.rand(3)
    assert torch.equal(first.cpu(), here)  # one seed for both, and neither moves the other
    assert not torch.equal(torch.rand(3, device=NAME).cpu(), here)


def test_a_saved_tensor_returns_to_its_device(x):
    file = io.BytesIO()
    torch.save({"x": x}, file)
    for location, device in ((None, NAME), ("cpu", "cpu")):
        file.seek(0)
        assert torch.load(file, map_location=location)["x"].device.type == device


def test_a_forked_process_has_no_device(x):
    with (
        multiprocessing.get_context("fork").Pool(1) as pool,
        pytest.raises(RuntimeError, match="forked subprocess"),
    ):
        pool.apply(torch.zeros, (1,), {"device": NAME})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_lowers_the_precision_of_products(x, dtype):
    layer = torch.nn.Linear(2, 1).to(NAME)
    with torch.autocast(NAME, dtype=dtype):
        y = layer(x)
        assert y.dtype == dtype and (x + 1).dtype == torch.float32
        with torch.autocast(NAME, enabled=False):
            assert layer(x).dtype == torch.float32
    y.sum().backward()
    assert layer.weight.grad.dtype == torch.float32
