import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cdl_d2.nn.bridge.bridge import Bridge
from cdl_d2.nn.bridge.decoder_layers import decoder_layers
from tests.conftest import ARCHITECTURES, small_codec


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("stride", [8, 4])
def test_a_bridge_begins_as_the_decoder_does(name, stride):
    codec = small_codec(name)
    y_hat = torch.randn(1, codec.latent_channels, 4, 6)
    bridge, seen = Bridge(codec, stride, 10), {}
    count = len(bridge.layers)
    hook = codec.network.g_s[count - 1].register_forward_hook(
        lambda module, inputs, output: seen.__setitem__("feature", output)
    )
    codec.network.g_s(y_hat)
    hook.remove()
    assert torch.allclose(bridge.layers(y_hat), seen["feature"], atol=1e-5)
    assert seen["feature"].shape[2:] == (64 // stride, 96 // stride)
    assert bridge(y_hat).shape == (1, 10, 64 // stride, 96 // stride)


def test_features_beyond_an_image_are_those_of_zero_latents(codec):
    bridge = Bridge(codec, 4, 6)
    y_hat, sizes = torch.randn(2, codec.latent_channels, 8, 8), [(60, 100), (128, 17)]
    whole = bridge(y_hat)
    bridge.image_sizes = sizes
    features = bridge(y_hat)
    zeros = bridge(torch.zeros_like(y_hat))[0, :, 16:17, 16:17]
    for feature, expected, size in zip(features, whole, sizes, strict=True):
        rows, columns = bridge.output_size(*size)
        assert torch.equal(feature[:, :rows, :columns], expected[:, :rows, :columns])
        assert torch.allclose(feature[:, rows:], zeros, atol=1e-5)
        assert torch.allclose(feature[:, :, columns:], zeros, atol=1e-5)


def test_layers_have_the_decoders_values_gradients_and_names(codec):
    layers, decoder = decoder_layers(codec, 4), copy.deepcopy(codec.network.g_s)
    count = len(layers)
    decoder = decoder[:count].requires_grad_()
    assert layers.state_dict().keys() == decoder.state_dict().keys()
    y_hat = torch.randn(2, codec.latent_channels, 3, 5)
    expected = decoder(y_hat)
    with torch.no_grad():
        assert torch.allclose(layers(y_hat), expected, atol=1e-5)
    feature = layers.requires_grad_()(y_hat)
    assert torch.allclose(feature, expected, atol=1e-5)
    for output in (feature, expected):
        output.square().mean().backward()
    for parameter, other in zip(layers.parameters(), decoder.parameters(), strict=True):
        assert torch.allclose(parameter.grad, other.grad, rtol=1e-3, atol=1e-6)


def test_a_bridge_learns_and_the_codec_does_not(codec):
    bridge = Bridge(codec, 4, 6)
    bridge(torch.randn(2, 192, 2, 2)).sum().backward()
    assert all(p.grad is not None for p in bridge.parameters())
    assert all(p.grad is None for p in codec.parameters())
    frozen = Bridge(codec, 4, 6, frozen=True)
    frozen(torch.randn(2, 192, 2, 2)).sum().backward()
    assert {n.split(".")[0] for n, p in frozen.named_parameters() if p.requires_grad} == {"project"}


@pytest.mark.parametrize("kind", ["deconv", "res"])
def test_a_transform_module_upsamples_fourfold_and_every_parameter_learns(codec, kind):
    module = Bridge(codec, 4, 8, kind, width=6)
    feature = module(torch.randn(2, 192, 3, 5))
    assert feature.shape == (2, 8, 12, 20)
    feature.square().mean().backward()
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize("norm", [None, nn.BatchNorm2d, lambda n: nn.GroupNorm(1, n)])
@pytest.mark.parametrize("is_rectified", [True, False])
def test_a_fit_finds_a_stage_that_is_a_map_of_the_decoders_features(norm, is_rectified, codec):
    torch.manual_seed(0)
    stage, bridge = (Bridge(codec, 8, 6, norm=n, is_rectified=is_rectified) for n in (None, norm))
    images = [torch.randn(1, 192, 12, 16) for _ in range(2)]
    targets = [stage.project[0](stage.layers(y_hat))[..., :-1] for y_hat in images]
    explained = bridge.eval().fit(zip(images, targets, strict=True))
    assert explained > 0.999
    for y_hat, target in zip(images, targets, strict=True):
        expected = target.relu() if is_rectified else target
        tolerance = 1e-3 if norm in (None, nn.BatchNorm2d) else 0.3  # GroupNorm divides by image
        error = (bridge(y_hat)[..., :-1] - expected).std() / expected.std()
        assert error < tolerance


def test_a_fit_refuses_features_of_another_stride(codec):
    with pytest.raises(ValueError, match="stride of 8"):
        Bridge(codec, 8, 6).fit([(torch.randn(1, 192, 4, 4), torch.randn(1, 6, 16, 16))])


def test_what_no_bridge_can_be_is_named(codec):
    with pytest.raises(ValueError, match="'linear' is not one of"):
        Bridge(codec, 4, 8, "linear")
    with pytest.raises(ValueError, match="ends at stride 4, not 8"):
        Bridge(codec, 8, 8, "deconv")
    with pytest.raises(ValueError, match="no stride 32"):
        decoder_layers(codec, 32)
    with pytest.raises(ValueError, match="a latent of 320 channels"):
        Bridge(codec, 8, 8)(torch.zeros(1, 320, 2, 2))


def test_the_padding_of_a_batch_counts_once_in_batch_statistics(codec):
    bridge = Bridge(codec, 4, 6, norm=nn.BatchNorm2d).train()
    plain = copy.deepcopy(bridge)
    y_hat = torch.randn(2, codec.latent_channels, 4, 4)
    bridge.grids, bridge.image_sizes = [(4, 4), (4, 4)], [(64, 64), (64, 64)]
    assert torch.equal(bridge(y_hat), plain(y_hat))
    for name, value in plain.project[1].named_buffers():
        assert torch.equal(bridge.project[1].get_buffer(name), value), name


def test_a_latent_is_decoded_on_its_own_grid_in_a_padded_batch(codec):
    bridge, grids = Bridge(codec, 4, 6), [(4, 5), (3, 6)]
    latents = [torch.randn(codec.latent_channels, *grid) for grid in grids]
    padded = [F.pad(y, (0, 6 - y.shape[2], 0, 6 - y.shape[1])) for y in latents]
    bridge.grids, bridge.margin = grids, 2
    features = bridge(torch.stack(padded))
    assert features.shape[2:] == (16, 16)
    for feature, y_hat in zip(features, latents, strict=True):
        bridge.margin = 0
        alone = bridge(y_hat[None])[0, :, :16, :16]
        rows, columns = alone.shape[1:]
        assert torch.allclose(feature[:, :rows, :columns], alone, atol=1e-5)
