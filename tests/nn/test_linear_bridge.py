import pytest
import torch
import torchvision
from compressai.models import ScaleHyperprior
from torch import nn

from cdl_d2.codec import Codec
from cdl_d2.nn.bridge.decoder_layers import decoder_layers
from cdl_d2.nn.bridge.linear_bridge import LinearBridge, bridge_first_convolution
from cdl_d2.nn.input.coded_input import MARGIN


@pytest.fixture(scope="module")
def small() -> Codec:
    """A codec of few channels, so that a fit has few unknowns."""
    with torch.random.fork_rng(devices=[]):
        return Codec.from_network("of-few-channels", ScaleHyperprior(8, 12), 12)


LIVE = 8  # channels of a latent that are not all zero


def linear_images(codec, count=20, cells=(4, 5)):
    """Latents, and images that a linear decoder of 16 x 16 patches makes of them."""
    decode = nn.ConvTranspose2d(LIVE, 3, kernel_size=16, stride=16, bias=False)
    with torch.no_grad():
        for _ in range(count):
            y_hat = torch.zeros(1, codec.latent_channels, *cells)
            y_hat[:, :LIVE] = torch.randn(1, LIVE, *cells)
            yield y_hat, decode(y_hat[:, :LIVE])


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(3, 4, kernel_size=7, stride=2, padding=3, bias=False),
        nn.Conv2d(3, 2, kernel_size=3, stride=1, padding=1),
        nn.Conv2d(3, 6, kernel_size=4, stride=4),
        nn.Conv2d(3, 6, kernel_size=16, stride=16),
        nn.Conv2d(3, 6, kernel_size=7, stride=2),
    ],
    ids=str,
)
def test_a_fit_gives_what_the_convolution_gives_where_decoding_is_linear(small, convolution):
    bridge = LinearBridge(small, convolution, 9 * LIVE, decoder_stride=16)
    pairs = list(linear_images(small))
    assert bridge.fit(pairs) > 0.999 and bridge.is_fitted
    for y_hat, image in pairs[:3]:
        expected = convolution(image)
        rows, columns = bridge.output_size(*image.shape[2:])
        assert expected.shape[2:] == (rows, columns)
        assert torch.allclose(bridge(y_hat)[:, :, :rows, :columns], expected, atol=0.02)


@pytest.mark.parametrize("side", [16, 32])
def test_patches_read_positions_that_cover_them(small, side):
    patches = nn.Conv2d(3, 6, kernel_size=side, stride=side)
    bridge = LinearBridge(small, patches, decoder_stride=8)
    y_hat, image = torch.randn(60, small.latent_channels, 6, 4), torch.randn(60, 3, 96, 64)
    assert bridge(y_hat).shape == patches(image).shape
    assert bridge.reduce.weight.shape[2] == side // 8 + 2 and bridge.fit([(y_hat, image)]) <= 1


@pytest.mark.parametrize("bias", [False, True])
def test_features_beyond_an_image_are_those_of_zero_pixels(small, bias):
    convolution = nn.Conv2d(3, 4, kernel_size=3, stride=2, padding=1, bias=bias)
    bridge = LinearBridge(small, convolution, decoder_stride=8)
    y_hat, sizes = torch.randn(2, small.latent_channels, 4, 4), [(30, 40), (64, 17)]
    whole_features, zeros = bridge(y_hat), convolution(torch.zeros(1, 3, 64, 64))[0]
    bridge.image_sizes = sizes
    for feature, whole, size in zip(bridge(y_hat), whole_features, sizes, strict=True):
        rows, columns = bridge.output_size(*size)
        assert torch.equal(feature[:, :rows, :columns], whole[:, :rows, :columns])
        assert torch.allclose(feature[:, rows:], zeros[:, rows:])
        assert torch.allclose(feature[:, :, columns:], zeros[:, :, columns:])


@pytest.mark.parametrize("decoder_stride", [16, 8, 4, 2])
@pytest.mark.parametrize("side, stride", [(7, 2), (4, 4), (16, 16), (32, 32)])
def test_features_of_an_image_depend_on_no_position_beyond_the_margin(
    small, decoder_stride, side, stride
):
    convolution = nn.Conv2d(3, 2, side, stride, padding=3 if side == 7 else 0)
    bridge = LinearBridge(small, convolution, decoder_stride=decoder_stride)
    y_hat = torch.randn(1, small.latent_channels, 4 + 4, 6 + 4)
    positions = 64 // stride, 96 // stride
    expected = bridge(y_hat)[:, :, : positions[0], : positions[1]]
    bridge.margin = MARGIN
    feature = bridge(y_hat[:, :, : 4 + MARGIN, : 6 + MARGIN])
    assert feature.shape == expected.shape and torch.allclose(feature, expected, atol=1e-5)


def test_a_margin_around_an_image_does_not_change_what_it_is_fitted_to(small):
    convolution = nn.Conv2d(3, 4, kernel_size=7, stride=2, padding=3)
    pairs = list(linear_images(small, cells=(6, 7)))
    cropped = [(y_hat, image[:, :, :90, :90]) for y_hat, image in pairs]
    bridge = LinearBridge(small, convolution, 9 * LIVE, decoder_stride=16)
    assert bridge.fit(cropped) > 0.999
    y_hat, image = cropped[0]
    expected = convolution(image)[:, :, :43, :43]  # whose windows lie in the image
    feature = bridge(y_hat)[:, :, : expected.shape[2], : expected.shape[3]]
    assert torch.allclose(feature, expected, atol=0.02)


def test_a_wider_fit_explains_more(small):
    convolution = nn.Conv2d(3, 4, kernel_size=7, stride=2, padding=3)
    pairs = list(linear_images(small))
    explained = [
        LinearBridge(small, convolution, width, decoder_stride=16).fit(pairs)
        for width in (1, 9 * LIVE)
    ]
    assert explained == sorted(explained) and explained[0] < 0.5 and 0.9 < explained[-1] <= 1


def test_what_the_fit_says_that_it_explains_is_what_it_explains(small):
    convolution = nn.Conv2d(3, 4, kernel_size=7, stride=2, padding=3)
    bridge = LinearBridge(small, convolution, 8, decoder_stride=16)
    pairs = list(linear_images(small))
    explained = bridge.fit(pairs)
    with torch.no_grad():
        predicted = torch.cat([bridge(y_hat) for y_hat, _ in pairs])
        target = torch.cat([convolution(image) for _, image in pairs])
    phases = nn.functional.pixel_unshuffle(target, 8)
    variance = (phases - phases.mean(dim=(0, 2, 3), keepdim=True)).square().mean()
    assert 1 - (predicted - target).square().mean() / variance == pytest.approx(explained, abs=1e-3)


def test_a_fit_of_several_batches_is_that_of_all_images(small):
    convolution = nn.Conv2d(3, 4, kernel_size=7, stride=2, padding=3)
    pairs = list(linear_images(small))
    batched, single = (
        LinearBridge(small, convolution, decoder_stride=16),
        LinearBridge(small, convolution, decoder_stride=16),
    )
    single.fit(pairs)
    batched.fit(
        [(torch.cat(y_hats), torch.cat(images)) for y_hats, images in [zip(*pairs, strict=True)]]
    )
    y_hat = pairs[0][0]
    assert torch.allclose(single(y_hat), batched(y_hat), atol=1e-4)


def test_a_bridged_network_has_the_rgb_models_entries_and_what_is_behind_learns(small):
    pixel = torchvision.models.resnet18(num_classes=4)
    bridged = torchvision.models.resnet18(num_classes=4)
    bridge = bridge_first_convolution(bridged, small)
    missing, unexpected = bridged.load_state_dict(pixel.state_dict(), strict=False)
    assert not unexpected and all(key.startswith("conv1.") for key in missing)
    assert torch.equal(bridge.weight, pixel.conv1.weight)
    y_hat = torch.randn(2, small.latent_channels, 3, 5)
    assert bridge(y_hat).shape == (2, 64, 24, 40)
    bridged(y_hat).sum().backward()
    learning = {name for name, p in bridged.named_parameters() if p.grad is not None}
    assert learning == {name for name, _ in pixel.named_parameters()} - {"conv1.weight"}


def test_what_a_linear_bridge_cannot_stand_for_is_named(small):
    with pytest.raises(ValueError, match="stride is one of"):
        LinearBridge(small, nn.Conv2d(3, 6, kernel_size=3, stride=3), decoder_stride=16)
    with pytest.raises(ValueError, match="3 channels"):
        LinearBridge(small, nn.Conv2d(4, 6, kernel_size=3, stride=2), decoder_stride=16)
    with pytest.raises(ValueError, match="Linear has 0 convolutions"):
        bridge_first_convolution(nn.Linear(3, 3), small)
    bridge = LinearBridge(
        small, nn.Conv2d(3, 6, kernel_size=3, stride=2, padding=1), decoder_stride=16
    )
    with pytest.raises(ValueError, match="a latent of 64 channels"):
        bridge(torch.zeros(1, 64, 2, 2))
    with pytest.raises(ValueError, match="without data"):
        bridge.fit([])
    with pytest.raises(ValueError, match="must cover the image"):
        bridge.fit([(torch.zeros(1, small.latent_channels, 2, 2), torch.zeros(1, 3, 48, 48))])
    convolution = nn.Conv2d(3, 6, kernel_size=3, stride=2, padding=1)
    for width in (-1, 109):
        with pytest.raises(ValueError, match=rf"width {width} .* 1\.\.108"):
            LinearBridge(small, convolution, width, decoder_stride=16)
    with pytest.raises(ValueError, match="stride 32 is not one of 16, 8, 4"):
        LinearBridge(small, convolution, decoder_stride=32)
    with pytest.raises(ValueError, match="more than one position"):
        LinearBridge(small, nn.Conv2d(3, 6, kernel_size=3, stride=2, padding=2))
    with pytest.raises(ValueError, match="fewer than it has unknowns"):
        pair = torch.randn(1, small.latent_channels, 1, 1), torch.randn(1, 3, 16, 16)
        LinearBridge(small, convolution).fit([pair])


def test_a_fitted_bridge_loads_into_its_like_only(small):
    convolution = nn.Conv2d(3, 4, kernel_size=7, stride=2, padding=3)
    bridge = LinearBridge(small, convolution, 8, decoder_stride=16)
    bridge.fit(list(linear_images(small)))
    again = LinearBridge(small, convolution, 8, decoder_stride=16)
    again.load_state_dict(bridge.state_dict())
    assert again.is_fitted and torch.equal(again.reduce.weight, bridge.reduce.weight)
    with pytest.raises(ValueError, match="of another fitted bridge"):
        LinearBridge(small, convolution, 9, decoder_stride=16).load_state_dict(bridge.state_dict())


def test_a_convolution_with_other_parameters_is_rejected(small):
    layers = pytest.importorskip("timm.layers", reason="timm is not installed")
    with pytest.raises(ValueError, match="has a gain"):
        LinearBridge(small, layers.ScaledStdConv2d(3, 4, kernel_size=3, stride=2))


@pytest.mark.parametrize("stride", [8, 4])
def test_the_map_reads_what_the_decoders_first_layers_give(small, stride):
    convolution = nn.Conv2d(3, 4, kernel_size=7, stride=2, padding=3)
    bridge = LinearBridge(small, convolution, decoder_stride=stride)
    y_hat = torch.randn(2, small.latent_channels, 6, 10)
    assert torch.equal(bridge.layers(y_hat), decoder_layers(small, stride)(y_hat))
    image = torch.randn(2, 3, 96, 160)
    assert bridge(y_hat).shape == convolution(image).shape
    assert bridge.fit([(y_hat, image)]) <= 1


def test_a_convolution_that_pads_in_its_own_way_is_reproduced(small):
    layers = pytest.importorskip("timm.layers", reason="timm is not installed")
    convolution = layers.Conv2dSame(3, 4, kernel_size=3, stride=2, bias=False)
    bridge = LinearBridge(small, convolution, 9 * LIVE, decoder_stride=16)
    pairs = list(linear_images(small))
    assert bridge.fit(pairs) > 0.999
    assert torch.allclose(bridge(pairs[0][0]), convolution(pairs[0][1]), atol=0.02)
