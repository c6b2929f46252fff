import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from cdl_d2.nn import (
    CResNet,
    LatentClassifier,
    LatentInput,
    LatentResNet,
    stage_ends,
    stage_features,
)


def networks():
    torch.manual_seed(0)
    trunk = LatentResNet(LatentInput(8), width=1 / 16, conv4_blocks=(1, 1, 1), conv5_blocks=1)
    cresnet = CResNet(LatentInput(8), with_scales=False, width=1 / 16)
    return [
        (LatentClassifier(trunk, 3), torch.randn(2, 8, 8, 8), trunk),
        (LatentClassifier(cresnet, 3), torch.randn(2, 8, 8, 8), cresnet),
    ]


def test_the_relu_of_the_features_is_what_the_stages_give():
    for network, latent, trunk in networks():
        with stage_features(stage_ends(network)) as features:
            network(latent)
        outputs = trunk(latent)
        for stage in ("c4", "c5"):
            assert (features[stage] < 0).any()
            assert torch.allclose(features[stage].relu(), outputs[stage], atol=1e-5)


def test_gradients_reach_the_network_through_the_features():
    network, latent, _ = networks()[0]
    with stage_features(stage_ends(network)) as features:
        network(latent)
    features["c5"].sum().backward()
    assert network.trunk.stem[0].conv1.weight.grad.abs().sum() > 0


def test_hooks_are_gone_afterwards_and_rgb_models_have_stages():
    network = resnet18()
    with stage_features(stage_ends(network)) as features:
        network(torch.randn(1, 3, 64, 64))
    assert features["c5"].shape == (1, 512, 2, 2)
    features.clear()
    network(torch.randn(2, 3, 64, 64))
    assert not features
    with pytest.raises(ValueError, match="no stages at strides 16 and 32"):
        stage_ends(nn.Linear(2, 2))
