"""Networks of torchvision and timm by name, without a network."""

import hashlib

import pytest
import torch
from torchvision.models import ShuffleNet_V2_X0_5_Weights, get_model

from cdl_d2.conversion.named_networks import (
    build_named_network,
    load_named_network,
    torchvision_task,
)
from cdl_d2.errors import CdlError, MissingWeightsError

SHUFFLENET = "torchvision/shufflenet_v2_x0_5"


def pretrained(monkeypatch, tmp_path, url):
    """Let torchvision find its pretrained weights of SHUFFLENET at another address."""
    monkeypatch.setattr(ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1.value, "url", url)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))


def assert_equal_states(network, other):
    state = other.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("name", [SHUFFLENET, "timm/test_resnet"])
def test_a_file_of_weights_has_its_own_number_of_classes(name, tmp_path):
    if name.startswith("timm"):
        pytest.importorskip("timm", reason="timm is not installed")
    trained = build_named_network(name, 5)
    torch.save({"epoch": 1, "state_dict": trained.state_dict()}, tmp_path / "a.pth")
    source = load_named_network(name, tmp_path / "a.pth")
    assert source.task == "classification" and source.outputs == ("0", "1", "2", "3", "4")
    assert not source.network.training and source.preprocessing.crop > 0
    assert_equal_states(source.network, trained)


def test_pretrained_weights_are_torchvisions_and_cached(monkeypatch, tmp_path):
    trained = get_model("shufflenet_v2_x0_5", weights=None)
    torch.save(trained.state_dict(), tmp_path / "weights.pth")
    digest = hashlib.sha256((tmp_path / "weights.pth").read_bytes()).hexdigest()[:8]
    file = (tmp_path / "weights.pth").rename(tmp_path / f"shufflenet-{digest}.pth")
    pretrained(monkeypatch, tmp_path, file.as_uri())
    source = load_named_network(SHUFFLENET)
    assert_equal_states(source.network, trained)
    assert source.outputs[0] == "tench" and source.preprocessing.short_edge == 256
    file.unlink()
    assert_equal_states(load_named_network(SHUFFLENET).network, trained)


def test_pretrained_weights_out_of_reach_are_asked_for_as_a_file(monkeypatch, tmp_path):
    pretrained(monkeypatch, tmp_path, (tmp_path / "missing-00000000.pth").as_uri())
    with pytest.raises(MissingWeightsError, match="shufflenet_v2_x0_5"):
        load_named_network(SHUFFLENET)


def test_weights_of_another_network_are_rejected(tmp_path):
    torch.save(get_model("squeezenet1_1", weights=None).state_dict(), tmp_path / "a.pth")
    with pytest.raises(CdlError, match="missing"):
        load_named_network(SHUFFLENET, tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("mobilenet_v2", "classification"),
        ("lraspp_mobilenet_v3_large", "segmentation"),
        ("retinanet_resnet50_fpn", "detection"),
    ],
)
def test_the_task_of_a_network_is_that_of_its_module(name, task):
    assert torchvision_task(name) == task


@pytest.mark.parametrize("name", ["quantized_mobilenet_v2", "r3d_18", "mobilenet_v22"])
def test_networks_for_other_tasks_and_unknown_ones_are_rejected(name):
    with pytest.raises(CdlError, match=name):
        load_named_network(f"torchvision/{name}")


def test_unused_outputs_of_a_detector_are_no_classes(tmp_path):
    name = "torchvision/ssdlite320_mobilenet_v3_large"
    torch.save(build_named_network(name, 91).state_dict(), tmp_path / "coco.pth")
    torch.save(build_named_network(name, 4).state_dict(), tmp_path / "own.pth")
    assert load_named_network(name, tmp_path / "coco.pth").outputs.count("N/A") == 10
    assert load_named_network(name, tmp_path / "own.pth").outputs[1:] == ("0", "1", "2")
