import pytest
import torch
from fvcore.nn import FlopCountAnalysis

from cdl_d2.nn import LatentClassifier, LatentInput, LatentPyramidTrunk, LatentResNet


def small(channels: int = 8, **options) -> LatentResNet:
    return LatentResNet(LatentInput(channels), width=1 / 32, **options)


def giga_multiply_adds(network, *shape) -> float:
    analysis = FlopCountAnalysis(network.eval(), torch.zeros(*shape))
    return analysis.unsupported_ops_warnings(False).total() / 1e9


@pytest.mark.parametrize(("stem", "giga"), [("residual", 5.285), ("conv1x1", 4.905)])
def test_classifier_has_the_multiply_adds_of_tables_5_and_6(stem, giga):
    network = LatentClassifier(LatentResNet(LatentInput(192), stem=stem))
    assert giga_multiply_adds(network, 1, 192, 16, 16) == pytest.approx(giga, rel=0.002)


def test_without_a_stem_conv4_reads_the_latent():
    trunk = small(stem="none", conv4_blocks=(1, 1, 1))
    assert trunk.conv4_1[0].conv1.in_channels == 8
    assert trunk(torch.randn(1, 8, 4, 4))["c4"].shape == (1, 32, 4, 4)


def test_features_have_the_strides_and_channels_of_figure_2():
    pyramid = LatentPyramidTrunk(small())
    features = pyramid(torch.randn(2, 8, 6, 10))
    for name, stride in pyramid.strides.items():
        cells = (6 * 16 // stride, 10 * 16 // stride)
        assert features[name].shape == (2, pyramid.channels[name], *cells)


def test_standard_channels_are_those_of_design():
    trunk = LatentResNet(LatentInput(192), conv4_blocks=(1, 1, 1), conv5_blocks=1)
    channels = LatentPyramidTrunk(trunk).channels
    assert channels == {"res2": 128, "res3": 512, "res4": 1024, "res5": 2048}


@pytest.mark.parametrize("channels", [192, 320])
def test_input_channels_follow_the_codec(channels):
    features = small(channels)(torch.randn(1, channels, 4, 4))
    assert features["c5"].shape[2:] == (2, 2)


def test_blocks_are_counted_as_asked():
    trunk = small(conv4_blocks=(1, 2, 3), conv5_blocks=4)
    sizes = [len(s) for s in (trunk.conv4_1, trunk.conv4_2, trunk.conv4_3, trunk.conv5)]
    assert sizes == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("norm", "layer"),
    [("FrozenBN", "FrozenBatchNorm2d"), ("SyncBN", "SyncBatchNorm"), ("GN", "GroupNorm")],
)
def test_the_norm_is_used_everywhere(norm, layer):
    trunk = LatentResNet(LatentInput(32), width=1 / 8, norm=norm)
    kinds = {type(m).__name__ for m in trunk.modules()}
    assert layer in kinds and "BatchNorm2d" not in kinds


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stem": "7x7"}, "stem '7x7' is not one of"),
        ({"norm": "LN"}, "norm 'LN' is not one of"),
        ({"conv4_blocks": (3, 4)}, "three sub-stages"),
        ({"conv5_blocks": 0}, "at least one block"),
        ({"width": 0.001}, "leaves conv4 without channels"),
    ],
)
def test_a_wrong_choice_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        LatentResNet(LatentInput(8), **{"width": 1 / 32, **options})


def test_group_normalization_fits_the_channels_of_a_layered_codec():
    trunk = LatentResNet(LatentInput(192 + 16), width=0.25, norm="GN")
    assert trunk(torch.zeros(1, 208, 4, 4)) is not None


def test_every_parameter_gets_a_gradient():
    network = LatentPyramidTrunk(small())
    sum(f.square().mean() for f in network(torch.randn(2, 8, 4, 4)).values()).backward()
    assert all(p.grad is not None for p in network.parameters())
