"""Codecs on the device give what they give on the CPU."""

import pytest
import torch

from cdl_d2.codec import CodecChoice
from cdl_d2.codec.latent import Latent
from cdl_d2.nn.input.coded_input import CodedInput
from tests.conftest import ARCHITECTURES, small_codec
from tests.second_device import NAME

IMAGE = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(1))
CASES = [(name, "dequantized") for name in ARCHITECTURES] + [
    (name, "rounded")
    for name in ARCHITECTURES
    if "rounded" in ARCHITECTURES[name].coder.quantizations
]


def both(name, quantization="dequantized"):
    """Return a codec on the CPU, and its copy on the device."""
    codec = small_codec(name, quantization)
    return codec, codec.on(NAME)


def assert_same(here: Latent, there: Latent):
    for name, tensor in vars(here).items():
        if isinstance(tensor, torch.Tensor):
            other = getattr(there, name)
            assert other.device.type == NAME and torch.equal(tensor, other.cpu()), name
    assert here.side_bits == there.side_bits


@pytest.mark.parametrize(("name", "quantization"), CASES)
def test_latents_images_and_bitstreams_equal_those_of_the_cpu(name, quantization):
    here, there = both(name, quantization)
    latent, theirs = here.encode(IMAGE, True), there.encode(IMAGE.to(NAME), True)
    assert latent.y_hat.any()
    assert_same(latent, theirs)
    assert torch.equal(latent.y_hat, there.encode(IMAGE.to(NAME), with_bits=False).y_hat.cpu())
    decoded = there.decode(theirs)
    assert decoded.device.type == NAME and torch.equal(here.decode(latent), decoded.cpu())
    if quantization == "dequantized":
        stream = there.compress(IMAGE.to(NAME))
        assert stream.to_bytes() == here.compress(IMAGE).to_bytes()
        assert torch.equal(there.decompress(stream).y_hat, latent.y_hat)


def test_a_shared_codec_serves_two_devices_in_turn():
    choice = CodecChoice("tiny-bmshj2018-hyperprior", 2)
    models = [(CodedInput("latent", choice.load()), device) for device in ("cpu", NAME) * 2]
    item = {"image": (IMAGE * 255).byte()}
    encoded = [model.encode(item, device) for model, device in models]
    for made, (_, device) in zip(encoded, models, strict=True):
        assert made["latent"].device.type == device
        assert torch.equal(made["latent"].cpu(), encoded[0]["latent"])
    assert all(p.device.type == "cpu" for p in choice.load().parameters())
