import copy

import pytest
import torch
from torchvision.io import write_png

from cdl_d2.codec import Codec
from cdl_d2.codec.architectures import ARCHITECTURES
from cdl_d2.codec.latent import pad_for_coding
from cdl_d2.codec.rate_distortion import (
    RatePoint,
    average,
    bits_of_groups,
    equal_groups,
    rate_point,
)
from cdl_d2.errors import CdlError
from tests.codec.conftest import WITH_CONTEXT
from tests.conftest import small_codec, small_network, small_quality

IMAGE = torch.rand(3, 200, 250, generator=torch.Generator().manual_seed(1))


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
    return Codec(network, f"tiny-{name}", small_quality(name), "mse", "decoded")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_bits_of_strings_and_estimated_bits_agree(name):
    codec = calibrated_codec(name)
    stream = codec.compress(IMAGE)
    bits = 8 * sum(len(string) for string in stream.strings)
    assert bits < 8 * len(stream.to_bytes()) <= bits + 8 * 66
    ends = len(stream.strings) * 64  # each ends in the coder's state of 8 bytes
    estimated = codec.decompress(stream).total_bits
    assert bits == pytest.approx(estimated, rel=0.02, abs=ends)


def test_each_rate_is_over_the_pixels_that_its_name_says(codec, tmp_path):
    path = tmp_path / "a.png"
    write_png((IMAGE * 255).byte(), str(path))
    stream, point = rate_point(codec, path)
    bits, estimated = 8 * len(stream.to_bytes()), codec.decompress(stream).total_bits
    assert point.file_bpp == bits / (200 * 250)
    assert point.file_bits_per_coded_pixel == bits / (256 * 256)
    assert point.estimated_bpp == estimated / (200 * 250)
    assert point.estimated_bits_per_coded_pixel == estimated / (256 * 256)


def test_an_average_is_over_the_images_that_have_a_figure():
    small, large = RatePoint(1, 2, 3, 4, 5, None), RatePoint(3, 4, 5, 6, 7, 0.5)
    assert average([small, large]) == RatePoint(2, 3, 4, 5, 6, 0.5)
    assert average([small]) == small


@pytest.mark.parametrize("name", ["bmshj2018-factorized", "bmshj2018-hyperprior", "mbt2018"])
def test_groups_of_channels_add_up_to_the_latent(name):
    codec = calibrated_codec(name)
    stream = codec.compress(IMAGE)
    groups = equal_groups(codec.latent_channels, 5)
    assert [c for group in groups for c in group] == list(range(192))
    bits = bits_of_groups(codec, stream, groups)
    total = float(codec.decompress(stream).bits.sum())
    assert sum(estimated for _, estimated in bits) == pytest.approx(total)
    for written, estimated in bits:
        assert written == pytest.approx(estimated, rel=0.02, abs=96)


def test_more_groups_than_channels_are_refused():
    with pytest.raises(CdlError):
        equal_groups(4, 5)


def test_rates_of_another_codecs_stream_are_refused(codec):
    other = Codec.load("tiny-bmshj2018-hyperprior", 1)
    with pytest.raises(CdlError):
        bits_of_groups(codec, other.compress(IMAGE), [[0]])
