import pytest
import torch
from torchvision.models import resnet50

from cdl_d2.nn import CResNet, LatentClassifier, LatentInput


def small(with_scales=True, **options):
    torch.manual_seed(0)
    return CResNet(LatentInput(12), with_scales=with_scales, width=1 / 16, **options).eval()


CRESNET51 = {"entrance": False, "conv4_blocks": 10}


@pytest.mark.parametrize("with_scales", [True, False])
def test_28_cells_become_14_and_7(with_scales):
    latents = [torch.randn(2, 12, 28, 28), torch.rand(2, 12, 28, 28)][: 1 + with_scales]
    network = small(with_scales)
    features = network(*latents)
    assert features["c4"].shape == (2, 64, 14, 14)
    assert features["c5"].shape == (2, 128, 7, 7)
    assert LatentClassifier(network, 5)(*latents).shape == (2, 5)


@pytest.mark.parametrize(("options", "depth"), [({}, 39), (CRESNET51, 51)])
def test_a_cresnet_is_named_by_the_convolutions_of_its_bottlenecks(options, depth):
    stages = [getattr(small(**options), name) for name in ("conv3", "conv4", "conv5")]
    kernels = [
        module
        for stage in stages
        for name, module in stage.named_modules()
        if isinstance(module, torch.nn.Conv2d) and "downsample" not in name
    ]
    assert len(kernels) == depth


def test_without_an_entrance_conv3_reads_the_latent_alone():
    network = small(**CRESNET51)
    assert network.conv3[0].conv1.in_channels == 12 and not network.with_scales
    assert network(torch.randn(1, 12, 28, 28))["c5"].shape == (1, 128, 7, 7)


def test_scales_enter_by_their_logarithm_or_as_they_are():
    latent, scales = torch.randn(1, 12, 8, 8), 20 * torch.rand(1, 12, 8, 8)
    logarithms, plain = small(), small(log_scales=False)
    expected = plain(latent, scales.log1p())["c5"]
    assert torch.equal(logarithms(latent, scales)["c5"], expected)
    assert not torch.allclose(plain(latent, scales)["c5"], expected)


def test_scales_change_what_is_seen_and_are_asked_for():
    latent, network = torch.randn(1, 12, 8, 8), small()
    first = network(latent, torch.zeros(1, 12, 8, 8))["c5"]
    second = network(latent, torch.full((1, 12, 8, 8), 5.0))["c5"]
    assert not torch.allclose(first, second)
    with pytest.raises(ValueError, match="reads scales beside latents"):
        network(latent)


def test_later_stages_start_from_a_resnet50(tmp_path):
    weights = resnet50()
    torch.save(weights.state_dict(), tmp_path / "resnet50.pth")
    network = CResNet(LatentInput(12))
    assert network.load_resnet50(str(tmp_path / "resnet50.pth")) > 200
    assert torch.equal(network.conv3[0].conv1.weight, weights.layer2[0].conv1.weight)
    assert torch.equal(network.conv5[2].bn3.weight, weights.layer4[2].bn3.weight)
    deeper = CResNet(LatentInput(12), **CRESNET51)
    first = deeper.conv3[0].conv1.weight.clone()
    deeper.load_resnet50(str(tmp_path / "resnet50.pth"))
    assert torch.equal(deeper.conv4[5].bn3.weight, weights.layer3[5].bn3.weight)
    assert torch.equal(deeper.conv3[0].conv1.weight, first)
    with pytest.raises(ValueError, match="does not fit a cResNet"):
        small().load_resnet50(str(tmp_path / "resnet50.pth"))
