import pytest
import torch
from torchvision.models.resnet import Bottleneck, ResNet

from cdl_d2.codec import CodecIdentity
from cdl_d2.errors import CdlError
from cdl_d2.nn import LatentClassifier, LatentInput, LatentResNet, initialize_trunk

OURS = CodecIdentity("mbt2018", 4, "mse", "dequantized", "0123456789abcdef")


def small(identity=OURS) -> LatentResNet:
    """Build a trunk as wide as a ResNet-50 in conv4 and conv5 only where a test needs it."""
    return LatentResNet(LatentInput(8, identity), width=1 / 32)


def test_a_latent_classifier_gives_the_whole_trunk(tmp_path):
    classifier, trunk = LatentClassifier(small(), 5), small()
    torch.save(classifier.state_dict(), tmp_path / "classifier.pth")
    loaded = initialize_trunk(trunk, tmp_path / "classifier.pth")
    assert set(loaded) == set(trunk.state_dict())
    expected = classifier.trunk.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in trunk.state_dict().items())


def test_a_checkpoint_of_detectron2_gives_its_trunk(tmp_path):
    source, trunk = small(), small()
    state = {f"backbone.bottom_up.pyramid.trunk.{k}": v for k, v in source.state_dict().items()}
    torch.save({"model": state, "iteration": 3}, tmp_path / "model.pth")
    assert set(initialize_trunk(trunk, tmp_path / "model.pth")) == set(trunk.state_dict())


def test_a_classifier_of_another_codec_is_rejected(tmp_path):
    stored = CodecIdentity(**{**vars(OURS), "quantization": "rounded"})
    torch.save(LatentClassifier(small(stored), 5).state_dict(), tmp_path / "classifier.pth")
    with pytest.raises(ValueError, match="this model is for"):
        initialize_trunk(small(), tmp_path / "classifier.pth")


def test_an_rgb_resnet_initializes_conv4_and_conv5_and_further_blocks_are_identities(tmp_path):
    pixel = ResNet(Bottleneck, [1, 1, 2, 1])
    torch.save(pixel.state_dict(), tmp_path / "resnet.pth")
    trunk = LatentResNet(
        LatentInput(8, OURS), stem="conv1x1", conv4_blocks=(1, 1, 1), conv5_blocks=1
    )
    loaded = initialize_trunk(trunk, tmp_path / "resnet.pth")
    assert torch.equal(trunk.conv4_1[0].conv1.weight, pixel.layer3[0].conv1.weight)
    assert torch.equal(trunk.conv4_2[0].conv3.weight, pixel.layer3[1].conv3.weight)
    assert torch.equal(trunk.conv5[0].downsample[0].weight, pixel.layer4[0].downsample[0].weight)
    assert not any(k.startswith("conv4_3") for k in loaded)
    x = torch.rand(1, 1024, 2, 2)
    assert torch.equal(trunk.eval().conv4_3(x), x)


def test_weights_that_fit_nothing_are_rejected(tmp_path):
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="does not fit this latent ResNet"):
        initialize_trunk(small(), tmp_path / "other.pth")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth do not exist"):
        initialize_trunk(small(), tmp_path / "none.pth")


def test_a_resnet_of_another_width_is_rejected_and_changes_nothing(tmp_path):
    torch.save(ResNet(Bottleneck, [1, 1, 2, 1]).state_dict(), tmp_path / "resnet.pth")
    trunk = small()
    before = {k: v.clone() for k, v in trunk.state_dict().items()}
    with pytest.raises(ValueError, match="does not fit this latent ResNet"):
        initialize_trunk(trunk, tmp_path / "resnet.pth")
    assert all(torch.equal(v, before[k]) for k, v in trunk.state_dict().items())


def test_frozen_norms_are_rejected_where_blocks_could_never_learn(tmp_path):
    torch.save(ResNet(Bottleneck, [1, 1, 2, 1]).state_dict(), tmp_path / "resnet.pth")
    trunk = LatentResNet(LatentInput(8, OURS), stem="conv1x1", norm="FrozenBN")
    with pytest.raises(ValueError, match="FrozenBN, expected BN"):
        initialize_trunk(trunk, tmp_path / "resnet.pth")


def test_a_resnet_without_conv4_is_rejected(tmp_path):
    state = ResNet(Bottleneck, [1, 1, 1, 1]).state_dict()
    torch.save({k: v for k, v in state.items() if "layer3" not in k}, tmp_path / "part.pth")
    with pytest.raises(CdlError, match="layer3"):
        initialize_trunk(small(), tmp_path / "part.pth")
