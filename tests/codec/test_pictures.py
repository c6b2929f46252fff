import numpy as np
import pytest
import torch

from cdl_d2.codec.latent import Latent
from cdl_d2.codec.pictures import GRID, Figure, latent_figure, show_bits
from tests.conftest import small_codec

IMAGE = np.random.default_rng(0).integers(0, 256, (70, 100, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "with_scales"), [("bmshj2018-hyperprior", True), ("bmshj2018-factorized", False)]
)
def test_scales_are_drawn_beside_the_same_channels_of_the_latent(name, with_scales):
    codec = small_codec(name)
    axes = latent_figure(codec, IMAGE).axes
    channels, count = axes[-GRID[0] * GRID[1] * (1 + with_scales) :], GRID[0] * GRID[1]
    assert len(axes) == 3 + count * (1 + with_scales)  # image, bits and their color bar
    assert all(axis.images[0].get_array().shape == (5, 7) for axis in channels)
    if with_scales:
        ours, scales = channels[:count], channels[count:]
        named = [axis.get_title().split()[-1] for axis in ours]
        assert named == [axis.get_title().split(":")[0] for axis in scales]
        pixels = torch.from_numpy(IMAGE).movedim(-1, 0).float() / 255
        latent = codec.encode(pixels, with_scales=True)
        for axis, channel in zip(scales, map(int, named), strict=True):
            expected = latent.crop(latent.scales_hat)[channel].numpy()
            assert np.array_equal(axis.images[0].get_array(), expected)


def test_bits_are_drawn_of_the_cells_that_the_image_covers():
    bits = torch.arange(64.0).view(8, 8)
    padded = Latent(torch.zeros(1, 8, 8), (64, 64), bits=bits, padding=(32, 16))
    drawn = show_bits(Figure().subplots(), padded).get_array()
    assert np.array_equal(drawn, bits[2:6, 1:5])
