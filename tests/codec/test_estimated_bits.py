import copy

import pytest
import torch

from cdl_d2.codec import Codec
from cdl_d2.codec.latent import pad_for_coding
from tests.codec.conftest import WITH_CONTEXT
from tests.conftest import ARCHITECTURES, small_codec, small_network, small_quality

IMAGE = torch.rand(3, 120, 150, generator=torch.Generator().manual_seed(1))


def calibrated_codec(name: str) -> Codec:
    """An untrained codec that predicts about the right scales, as every trained one does."""
    if name == "bmshj2018-factorized":
        return small_codec(name)
    network = copy.deepcopy(small_network(name))
    predictor = network.entropy_parameters if name in WITH_CONTEXT else network.h_s
    layer = [m for m in predictor.modules() if isinstance(m, torch.nn.Conv2d)][-1]
    with torch.no_grad():
        y = network.g_a(pad_for_coding(IMAGE)[None])
        louder = torch.nn.Conv2d(y.shape[1], y.shape[1], 1, bias=False)
        louder.weight.data = (torch.eye(y.shape[1]) * 4 / y.std())[:, :, None, None]
        network.g_a = torch.nn.Sequential(network.g_a, louder)
        layer.weight.zero_()
        spatial = getattr(network, "M", y.shape[1])
        layer.bias[:spatial] = louder(y).square().mean((0, 2, 3)).sqrt()[:spatial]
    return Codec(network, f"tiny-{name}", small_quality(name), "mse", "dequantized")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_bits_of_strings_and_estimated_bits_agree(name):
    codec = calibrated_codec(name)
    stream = codec.compress(IMAGE)
    bits = 8 * sum(len(string) for string in stream.strings)
    assert bits < 8 * len(stream.to_bytes()) <= bits + 8 * 66
    ends = len(stream.strings) * 64  # each ends in the coder's state of 8 bytes
    estimated = codec.decompress(stream).total_bits
    assert bits == pytest.approx(estimated, rel=0.02, abs=ends)
