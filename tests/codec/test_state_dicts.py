"""Weights under the names, and among the things, that training scripts save them with."""

import argparse
import enum
import pathlib
import re
from collections import OrderedDict, defaultdict
from functools import cache

import compressai.models
import numpy as np
import pytest
import torch
from compressai.zoo import image, image_vbr
from torch import nn
from torch.optim.swa_utils import AveragedModel

from cdl_d2.codec import Codec
from cdl_d2.codec.io.state_dicts import (
    WRAPPERS,
    extract_state_dict,
    fingerprint,
    fit_names,
    load_into,
)
from cdl_d2.codec.io.weights_file import load_network, load_state_dict
from cdl_d2.codec.networks import network_from_weights
from cdl_d2.codec.registry import get_architecture
from cdl_d2.errors import CdlError
from tests.conftest import ARCHITECTURES, GENERATIVE

PREFIXES = ("module.", "_orig_mod.", "net.", "model.", "module._orig_mod.", "lit.codec.")


@cache
def network_of(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return get_architecture(f"tiny-{name}").new_network(1)


def with_old_names(state):
    """Return a state as CompressAI before 1.2.6 named its entries."""
    return {re.sub(r"\.(matri|bias|factor)(ces|es|s)\.", _old, key): v for key, v in state.items()}


def _old(match):
    return f"._{match[1]}{'x' if match[1] == 'matri' else ''}"


def with_new_names(state):
    """Return a state as CompressAI names its entries now, those of variable rates too."""
    for kind, kinds in (("matrix", "matrices"), ("bias", "biases"), ("factor", "factors")):
        state = {re.sub(rf"\._{kind}(\d)", rf".{kinds}.\1", key): v for key, v in state.items()}
    return state


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_codec_is_the_same_whatever_its_file_calls_its_entries(name):
    network = network_of(name)
    state, expected = network.state_dict(), fingerprint(network)
    read = network_from_weights(f"tiny-{name}", 1, {f"module.{k}": v for k, v in state.items()})
    assert fingerprint(read) == expected
    for number, prefix in enumerate(PREFIXES):
        content = {"epoch": 3, WRAPPERS[number]: {f"{prefix}{k}": v for k, v in state.items()}}
        renamed = fit_names(extract_state_dict(content, "x"), state)
        assert list(renamed) == list(state) and all(renamed[k] is state[k] for k in state)
    assert fit_names(with_old_names(state), state).keys() == state.keys()
    assert fit_names(with_new_names(state), state).keys() == state.keys()


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("nested", [False, True])
def test_weights_are_found_in_checkpoints_of_trainings(tmp_path, wrapper, nested):
    norm = nn.BatchNorm2d(3)
    content = {"state_dict" if wrapper != "state_dict" else "model": norm.state_dict()}
    content = {wrapper: content if nested else norm.state_dict()}
    content |= {"epoch": 3, "optimizer": torch.optim.Adam(norm.parameters()).state_dict()}
    torch.save(content, tmp_path / "a.pth")
    again = nn.BatchNorm2d(3)
    norm.weight.data += 1
    torch.save({**content, wrapper: norm.state_dict()}, tmp_path / "a.pth")
    load_network(again, tmp_path / "a.pth")
    assert torch.equal(again.weight, norm.weight)


def test_weights_are_taken_before_their_average():
    content = {"ema": {"a": torch.zeros(1)}, "state_dict": {"a": torch.ones(1)}}
    assert extract_state_dict(content, "x")["a"] == 1
    assert extract_state_dict({**content, "state_dict": None}, "x")["a"] == 0


class Config(dict):
    """A config as those of many packages are."""

    __getattr__ = dict.__getitem__


class Mode(enum.Enum):
    TRAIN = 1


class Plan:
    def __init__(self):
        self.steps = [1, 2]


class Trap:
    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle ran code')",))


BESIDE = {
    "arguments": argparse.Namespace(lr=1e-4, path=pathlib.Path("data")),
    "a number of numpy": np.float64(0.3),
    "an array": np.arange(3),
    "a type of numpy": np.dtype("float32"),
    "a path": pathlib.PurePosixPath("a/b"),
    "a config": Config(lr=Config(base=1e-4)),
    "an object": Plan(),
    "a mode": Mode.TRAIN,
    "a default dict": defaultdict(list, {"a": [1]}),
    "an ordered dict": OrderedDict(a=1),
    "a class": Plan,
    "code": Trap(),
}


@pytest.mark.parametrize("kind", BESIDE)
@pytest.mark.parametrize("zipped", [True, False])
def test_objects_beside_weights_are_not_constructed(tmp_path, kind, zipped):
    path, before = tmp_path / "a.pth.tar", set(torch.serialization.get_safe_globals())
    content = {"args": BESIDE[kind], "state_dict": {"a": torch.ones(2)}}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert torch.equal(load_state_dict(path)["a"], torch.ones(2))
    assert set(torch.serialization.get_safe_globals()) == before


def test_a_whole_network_is_named_and_not_made(tmp_path):
    torch.save({"epoch": 1, "model": nn.Linear(2, 2)}, tmp_path / "a.pth")
    with pytest.raises(CdlError, match=r"a\.pth .*Linear.*state_dict"):
        load_state_dict(tmp_path / "a.pth")
    torch.save(nn.Linear(2, 2), tmp_path / "b.pth")
    with pytest.raises(CdlError, match=r"b\.pth .*Linear.*state_dict"):
        load_state_dict(tmp_path / "b.pth")


class Wrapped(nn.Module):
    """A network with a part that is called as a wrapper is."""

    def __init__(self):
        super().__init__()
        self.model, self.other = nn.Linear(2, 2), nn.Linear(2, 3)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "net.model."])
def test_a_part_that_is_called_as_a_prefix_stays(prefix):
    network, again = Wrapped(), Wrapped()
    load_into(again, {f"{prefix}{k}": v for k, v in network.state_dict().items()}, "x")
    assert torch.equal(again.model.weight, network.model.weight)


def test_only_a_common_beginning_of_all_entries_is_a_prefix():
    state = {f"first.{k}": v for k, v in nn.Linear(2, 2).state_dict().items()}
    load_into(nn.Linear(2, 2), state, "x")
    with pytest.raises(CdlError, match=r"weight, bias.*first\.weight"):
        load_into(nn.Linear(2, 2), state | {"second.weight": torch.ones(1)}, "x")


def test_compiled_parts_and_averages_are_read():
    network, again = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Sequential()
    again = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    state = {k.replace(".", "._orig_mod."): v for k, v in network.state_dict().items()}
    load_into(again, state, "x")
    assert torch.equal(again[0].weight, network[0].weight)
    load_into(nn.Sequential(nn.Linear(2, 2)), AveragedModel(network[:1]).state_dict(), "x")


def test_every_kind_of_difference_is_named_with_its_count():
    state = {"weight": torch.ones(3, 2), **{f"x{n}": torch.ones(1) for n in range(9)}}
    with pytest.raises(CdlError) as refused:
        load_into(nn.Linear(2, 2), state, "file.pth")
    for part in ("file.pth", "Linear", "1 entry is missing", "bias", "9 entries", "x0", "x2",
                 "weight (3, 2) instead of (2, 2)"):  # fmt: skip
        assert part in str(refused.value)
    assert "x3" not in str(refused.value)


def test_an_unknown_entry_of_a_codec_is_named():
    name, state = "bmshj2018-factorized", network_of("bmshj2018-factorized").state_dict()
    with pytest.warns(UserWarning, match="extra"):
        read = network_from_weights(name, 1, {**state, "extra": torch.ones(2)}, "file.pth")
    assert fingerprint(read) == fingerprint(network_of(name))
    with pytest.raises(CdlError, match=r"file\.pth .*g_a\.9\.weight"):
        network_from_weights(name, 1, {**state, "g_a.9.weight": torch.ones(2)}, "file.pth")


def test_weights_of_a_codec_with_more_parts_are_not_those_of_another():
    with pytest.raises(CdlError, match="entropy_parameters"):
        network_from_weights("mbt2018-mean", 1, network_of("mbt2018").state_dict())


def narrow_network(name):
    """Return a narrow network and its channels; no width is one of CompressAI's."""
    if name == "cheng2020-anchor-checkerboard":
        return compressai.models.Cheng2020AnchorCheckerboard(8), 8
    if name == "elic2022-official":
        return compressai.models.Elic2022Official(8, 24, [4, 8, 12]), 24
    if name == "elic2022-chandelier":
        return compressai.models.Elic2022Chandelier(8, 24, [4, 4, 8, 8]), 24
    sizes = (8,) if name.startswith("cheng2020") else (8, 12)
    return {**image.model_architectures, **image_vbr.model_architectures}[name](*sizes), sizes[-1]


@pytest.mark.parametrize(
    "name",
    [
        *(name for name in ARCHITECTURES if name not in GENERATIVE),
        *("cheng2020-anchor-checkerboard", "elic2022-official", "elic2022-chandelier"),
    ],
)
def test_widths_are_read_from_the_weights(tmp_path, name):
    network, channels = narrow_network(name)
    for layer in network.modules():
        if hasattr(layer, "mask"):  # as every pass through it leaves its weights
            layer.weight.data *= layer.mask
    content = {"epoch": 3, "loss": torch.tensor(1.0), "state_dict": network.state_dict()}
    path = tmp_path / "checkpoint_best_loss.pth.tar"  # as CompressAI's examples/train.py does
    torch.save(content, path)
    codec = Codec.load(name, 1, weights=str(path))
    assert codec.latent_channels == channels
    assert fingerprint(codec.network) == fingerprint(network)
