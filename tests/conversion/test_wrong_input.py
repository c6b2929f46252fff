"""Errors for networks, images and latents that cannot be converted or read."""

import pytest
import torch
from PIL import Image
from torch import nn

import cdl_d2
from cdl_d2.codec import Codec
from cdl_d2.codec.io.image_files import find_images
from cdl_d2.conversion import Conversion, DistillationOptions, LatentNetwork, Preprocessing
from cdl_d2.conversion.image_sets import list_images
from cdl_d2.errors import CdlError
from tests.conftest import small_codec
from tests.conversion.networks import SIDE, Cifar, vit

HALF = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
NO_TRAINING = DistillationOptions(iterations=0)


class WithSkip(Cifar):
    """A network that reads its pixels a second time."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return super().forward(pixels) + pixels.mean()


def two_convolutions() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 3, 3, 1, 1), nn.Conv2d(3, 4, 3, 1, 1))


def weight_normed() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3, 1, 1)))


def weight_normed_of_old() -> nn.Module:
    return nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 4, 3, 1, 1)))


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Conv2d(4, 4, 3, 1, 1),
        two_convolutions,
        weight_normed,
        weight_normed_of_old,
        WithSkip,
        lambda: torch.jit.trace(Cifar().eval(), torch.zeros(1, 3, SIDE, SIDE)),
        lambda: "resnet18",
        lambda: Cifar(kernel_size=14, stride=14, padding=0),
        lambda: Cifar(stride=(2, 1)),
        lambda: Cifar(padding=2),
        lambda: vit(SIDE + 16),
    ],
)
def test_a_network_that_cannot_be_converted_is_named(build, codec, photos):
    preprocessing = Preprocessing(**HALF, short_edge=SIDE, crop=SIDE)
    with pytest.raises(CdlError):
        Conversion(build(), codec, photos, preprocessing).to_latents(NO_TRAINING)


def test_a_vision_transformer_says_which_size_it_needs(codec, photos):
    with pytest.raises(CdlError, match="64"):
        Conversion(vit(64), codec, photos, Preprocessing(**HALF, short_edge=SIDE, crop=SIDE))
    assert Preprocessing.of_network(vit(64), **HALF).crop == 64


def test_a_network_that_returns_nan_is_rejected(codec, photos):
    network = Cifar()
    nn.init.constant_(network.classify.bias, torch.nan)
    with pytest.raises(CdlError, match="NaN"):
        Conversion(network, codec, photos, Preprocessing(**HALF, short_edge=SIDE, crop=SIDE))


@pytest.mark.parametrize(
    "option",
    [{"iterations": -1}, {"minutes": float("inf")}, {"batch_size": 0}, {"adapt": "none"}],
)
def test_options_without_meaning_are_rejected(option):
    with pytest.raises(CdlError, match=next(iter(option))):
        DistillationOptions(**option)


def test_an_input_range_must_be_known(codec, photos):
    with pytest.raises(CdlError, match="mean and std"):
        cdl_d2.convert(Cifar(), codec, images=photos)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        (0.5, 0.25),
        ((0.5,), (0.25,)),
        ((123.7, 116.3, 103.5), (58.4, 57.1, 57.4)),
        ((0.5,) * 3, (0.25, 0, 0.25)),
        ((0.5,) * 3, (0.25, -1, 0.25)),
        ((float("nan"),) * 3, (0.25,) * 3),
        ("abc", (0.25,) * 3),
    ],
)
def test_a_wrong_input_range_is_rejected(mean, std):
    with pytest.raises(CdlError, match="mean"):
        Preprocessing(mean, std)


def test_a_folder_may_be_given_relative_to_the_current_one(photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    expected = [path.resolve() for path in list_images(photos)]
    assert [path.resolve() for path in list_images(photos.name)] == expected


def test_images_are_checked_before_a_conversion(codec, photos, tmp_path):
    files = find_images(photos)
    broken = tmp_path / "broken.png"
    broken.write_text("no image", encoding="utf-8")
    cut = tmp_path / "cut.jpg"
    Image.open(files[0]).save(cut)
    cut.write_bytes(cut.read_bytes()[:-100])
    for images in (files[:3], [*files, broken], [*files, cut], tmp_path):
        with pytest.raises(CdlError):
            cdl_d2.convert(Cifar(), codec, images=images, **HALF)
    with pytest.raises(FileNotFoundError):
        cdl_d2.convert(Cifar(), codec, images=tmp_path / "missing", **HALF)
    with pytest.raises(CdlError, match="quality"):
        cdl_d2.convert(Cifar(), codec.name, images=files, **HALF)


@pytest.fixture(scope="module")
def student(codec: Codec) -> LatentNetwork:
    return LatentNetwork(Cifar(), codec, Preprocessing(**HALF))


def test_a_bitstream_of_another_codec_is_rejected(student, codec):
    image = torch.rand(3, 32, 48)
    assert student.encode(codec.compress(image)).image_size == (32, 48)
    with pytest.raises(CdlError):
        student.encode(small_codec("bmshj2018-hyperprior").compress(image))


def test_latents_that_do_not_fit_are_rejected(student, codec):
    channels = codec.latent_channels
    encode = student.encode
    for latents, sizes in [
        (torch.zeros(1, channels + 1, 2, 2), None),
        (torch.zeros(channels, 2, 2), None),
        (torch.zeros(1, channels, 2, 2), [(33, 32)]),
        (torch.zeros(2, channels, 2, 2), [(32, 32)]),
        ([encode(torch.zeros(3, 32, side, dtype=torch.uint8)) for side in (32, 48)], None),
        ([], None),
    ]:
        with pytest.raises(CdlError):
            student(latents, sizes)
