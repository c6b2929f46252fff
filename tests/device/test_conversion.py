"""Conversions of RGB networks on the device."""

import numpy as np
import pytest
import torch
from PIL import Image

from cdl_d2.conversion import Conversion, DistillationOptions, Preprocessing
from cdl_d2.conversion.losses import named_tensors
from tests.conversion.networks import SIDE, Cifar, region_detector
from tests.second_device import NAME


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of images."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for index in range(16):
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(
            folder / f"{index}.png"
        )
    return folder


@pytest.mark.parametrize("build", [Cifar, region_detector])
def test_a_network_on_the_device_is_converted_there(build, codec, photos):
    preprocessing = Preprocessing((0.5,) * 3, (0.25,) * 3, short_edge=SIDE)
    conversion = Conversion(build().to(NAME), codec, photos, preprocessing)
    student = conversion.to_latents(DistillationOptions(iterations=2, batch_size=2))
    stream = codec.compress(torch.rand(3, 48, 64))
    tensors = [tensor for _, tensor in named_tensors(student(student.encode(stream)))]
    assert tensors and all(tensor.device.type == NAME for tensor in tensors)
    assert all(parameter.device.type == NAME for parameter in student.parameters())
