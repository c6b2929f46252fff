import pytest
import torch

from cdl_d2.codec import Codec
from cdl_d2.codec.architectures import ARCHITECTURES
from cdl_d2.codec.entropy.latent_coder import WITH_CONTEXT
from cdl_d2.codec.latent import pad_for_coding
from cdl_d2.codec.rates import channel_group_rates, equal_groups, rate_of
from tests.conftest import small_codec

IMAGE = torch.rand(3, 200, 250, generator=torch.Generator().manual_seed(1))


def calibrated_codec(name: str) -> Codec:
    """An untrained codec that predicts about the right scales, as every trained one does."""
    codec = small_codec(name)
    network = codec.network
    if name != "bmshj2018-factorized":
        predictor = network.entropy_parameters if name in WITH_CONTEXT else network.h_s
        layer = [m for m in predictor.modules() if isinstance(m, torch.nn.Conv2d)][-1]
        with torch.no_grad():
            y = network.g_a(pad_for_coding(IMAGE)[None])
            louder = torch.nn.Conv2d(y.shape[1], y.shape[1], 1, bias=False)
            louder.weight.data = (torch.eye(y.shape[1]) * 4 / y.std())[:, :, None, None]
            network.g_a = torch.nn.Sequential(network.g_a, louder)
            y = network.g_a(pad_for_coding(IMAGE)[None])
            layer.weight.data.zero_()
            layer.bias.data[: y.shape[1]] = y.square().mean((0, 2, 3)).sqrt()
    return codec


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_file_bits_and_estimated_bits_agree(name):
    codec = calibrated_codec(name)
    stream = codec.compress(IMAGE)
    rate = rate_of(stream, codec.decompress(stream))
    assert rate.file_bits == 8 * len(stream.to_bytes())
    assert rate.string_bits < rate.file_bits <= rate.string_bits + 8 * 64
    ends = 2 * 64  # each string ends in the coder's state of 8 bytes
    assert rate.string_bits == pytest.approx(rate.estimated_bits, rel=0.02, abs=ends)


def test_each_rate_is_over_the_pixels_that_its_name_says(codec):
    stream = codec.compress(IMAGE)
    rate = rate_of(stream, codec.decompress(stream))
    assert rate.file_bpp == rate.file_bits / (200 * 250)
    assert rate.file_bits_per_coded_pixel == rate.file_bits / (256 * 256)
    assert rate.estimated_bpp == rate.estimated_bits / (200 * 250)
    assert rate.estimated_bits_per_coded_pixel == rate.estimated_bits / (256 * 256)


@pytest.mark.parametrize("name", ["bmshj2018-factorized", "bmshj2018-hyperprior", "mbt2018"])
def test_groups_of_channels_add_up_to_the_latent(name):
    codec = calibrated_codec(name)
    stream = codec.compress(IMAGE)
    groups = equal_groups(codec.latent_channels, 5)
    rates = channel_group_rates(codec, stream, groups)
    assert sorted(c for rate in rates for c in rate.channels) == list(range(192))
    total = float(codec.decompress(stream).bits.sum())
    assert sum(rate.estimated_bits for rate in rates) == pytest.approx(total)
    for rate in rates:
        assert rate.string_bits == pytest.approx(rate.estimated_bits, rel=0.02, abs=96)


def test_more_groups_than_channels_are_refused():
    with pytest.raises(ValueError, match="4 channels cannot be split into 5 groups"):
        equal_groups(4, 5)


def test_rates_of_another_codecs_stream_are_refused(codec):
    other = Codec.load("tiny-bmshj2018-hyperprior", 1)
    with pytest.raises(ValueError, match="made by"):
        channel_group_rates(codec, other.compress(IMAGE), [[0]])
