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


def stack(terms):
    return torch.stack([terms.total, terms.mae, terms.ssim, terms.perceptual])


def test_equal_images_have_no_distortion(distortion):
    assert stack(distortion(photo(), photo())).min() > 0
    image = photo()
    assert torch.allclose(stack(distortion(image, image)), torch.zeros(4), atol=1e-6)


def test_every_term_is_symmetric_and_grows_with_blur(distortion):
    image = photo()
    little, much = blurred(image, 3), blurred(image, 7)
    assert torch.allclose(stack(distortion(image, much)), stack(distortion(much, image)), rtol=1e-4)
    assert (stack(distortion(image, little)) < stack(distortion(image, much))).all()


def test_the_total_is_the_weighted_sum_of_the_terms(distortion):
    terms = distortion(photo(), photo())
    total = terms.mae + 2 * terms.ssim + 0.5 * terms.perceptual
    assert torch.allclose(terms.total, total)
    without = Distortion(1.0, 0.0)(photo(), photo())
    assert without.perceptual is None and torch.equal(without.total, without.mae)


def test_only_the_reconstruction_gets_a_gradient(distortion):
    x_hat = photo().requires_grad_()
    distortion(photo(), x_hat).total.backward()
    assert x_hat.grad.isfinite().all() and x_hat.grad.any()
    assert not list(distortion.parameters()) and not distortion.state_dict()
    [network] = distortion._network
    assert all(p.grad is None for p in network.parameters()) and not network.train().training


@pytest.mark.parametrize("side", [11, 21, 40, 64, 81, 160])
def test_small_images_are_compared_on_fewer_scales(side):
    image = photo(168)[..., :side, :side]
    assert torch.allclose(ms_ssim(image, image), torch.ones(2), atol=1e-5)
    similar, other = ms_ssim(image, blurred(image, 3)), ms_ssim(image, blurred(image, 7))
    assert (other > 0).all() and (other < similar).all() and (similar < 1).all()


def test_opposite_contrasts_have_a_gradient():
    x_hat = (1 - photo()).requires_grad_()
    (1 - ms_ssim(photo(), x_hat)).mean().backward()
    assert x_hat.grad.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((-1.0, 1.0), "-1.0"), ((1.0, float("nan")), "nan"), ((1.0, 1.0, 0.5), "needs a network")],
)
def test_invalid_weights_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Distortion(*arguments)


def test_an_image_smaller_than_a_window_is_named():
    with pytest.raises(ValueError, match="11 pixels"):
        ms_ssim(torch.rand(1, 3, 10, 20), torch.rand(1, 3, 10, 20))
