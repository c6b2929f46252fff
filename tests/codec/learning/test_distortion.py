import pytest
import torch
from torch import nn

from cdl_d2.codec.learning.distortion import Distortion, ms_ssim
from cdl_d2.codec.learning.perceptual import FeatureDistance, PerceptualDistance


def photo(side=96):
    coarse = torch.rand(2, 3, side // 8, side // 8)
    image = nn.functional.interpolate(coarse, (side, side), mode="bicubic")
    return (image + 0.05 * torch.randn_like(image)).clamp(0, 1)


def blurred(image, kernel=5):
    return nn.functional.avg_pool2d(image, kernel, 1, kernel // 2, count_include_pad=False)


class TwoStages(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, 2)])

    def forward(self, x):
        first = self.convs[0](x).relu()
        return [first, self.convs[1](first).relu()]


@pytest.fixture
def distortion():
    features = FeatureDistance(TwoStages(), (0.5,) * 3, (0.25,) * 3)
    return Distortion(1.0, 2.0, 0.5, PerceptualDistance("random", features))


def terms(found):
    return torch.stack([found.total, found.mae, found.ssim, found.perceptual])


def test_equal_images_have_no_distortion(distortion):
    assert terms(distortion(photo(), photo())).min() > 0
    image = photo()
    assert torch.allclose(terms(distortion(image, image)), torch.zeros(4), atol=1e-6)


def test_every_term_is_symmetric_and_grows_with_blur(distortion):
    image = photo()
    little, much = blurred(image, 3), blurred(image, 7)
    assert torch.allclose(terms(distortion(image, much)), terms(distortion(much, image)), rtol=1e-4)
    assert (terms(distortion(image, little)) < terms(distortion(image, much))).all()


def test_the_total_is_the_weighted_sum_of_the_terms(distortion):
    found = distortion(photo(), photo())
    total = found.mae + 2 * found.ssim + 0.5 * found.perceptual
    assert torch.allclose(found.total, total)
    without = Distortion(1.0, 0.0)(photo(), photo())
    assert without.perceptual is None and torch.equal(without.total, without.mae)


def test_the_reconstruction_learns_and_the_network_does_not(distortion):
    x_hat = photo().requires_grad_()
    distortion(photo(), x_hat).total.backward()
    assert x_hat.grad.isfinite().all() and x_hat.grad.any()
    assert not list(distortion.parameters()) and not distortion.state_dict()
    [network] = distortion._network
    assert all(p.grad is None for p in network.parameters()) and not network.train().training


def test_large_images_have_the_figure_of_evaluation():
    from pytorch_msssim import ms_ssim as reference

    image = photo(168)
    other = blurred(image)
    expected = reference(image, other, data_range=1.0, size_average=False)
    assert torch.allclose(ms_ssim(image, other), expected, atol=1e-5)


@pytest.mark.parametrize("side", [11, 21, 40, 64, 81, 160])
def test_small_images_are_compared_on_the_scales_that_they_have(side):
    image = photo(168)[..., :side, :side]
    assert torch.allclose(ms_ssim(image, image), torch.ones(2), atol=1e-5)
    similar, other = ms_ssim(image, blurred(image, 3)), ms_ssim(image, blurred(image, 7))
    assert (other > 0).all() and (other < similar).all() and (similar < 1).all()


def test_opposite_contrasts_have_a_gradient():
    """A power of a negative contrast would be no number."""
    x_hat = (1 - photo()).requires_grad_()
    (1 - ms_ssim(photo(), x_hat)).mean().backward()
    assert x_hat.grad.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((-1.0, 1.0), "-1.0"), ((1.0, float("nan")), "nan"), ((1.0, 1.0, 0.5), "needs a network")],
)
def test_weights_that_cannot_be_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Distortion(*arguments)


def test_an_image_smaller_than_a_window_is_named():
    with pytest.raises(ValueError, match="11 pixels"):
        ms_ssim(torch.rand(1, 3, 10, 20), torch.rand(1, 3, 10, 20))
