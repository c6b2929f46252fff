import argparse
import os
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import build_resnet_backbone

from cdl_d2.d2 import SafeCheckpointer
from cdl_d2.d2.checkpoint import load_all_weights
from cdl_d2.d2.pickled_arrays import read_pickled_arrays
from cdl_d2.errors import CdlError


class _Trap:
    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle ran code')",))


def test_an_interrupted_save_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    model = nn.Linear(2, 2)
    checkpointer = SafeCheckpointer(model, str(tmp_path))
    checkpointer.save("model")
    before = (tmp_path / "model.pth").read_bytes()

    def interrupted(temporary, path):
        assert torch.load(temporary, weights_only=True) and path.name == "model.pth"
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpointer.save("model")
    assert (tmp_path / "model.pth").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model.pth"]


def test_a_saved_model_is_loaded(tmp_path):
    model, again = nn.Linear(2, 2), nn.Linear(2, 2)
    SafeCheckpointer(model, str(tmp_path)).save("model", iteration=7)
    checkpointer = SafeCheckpointer(again, str(tmp_path))
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 7
    assert torch.equal(model.weight, again.weight)


def test_a_flipped_bit_in_the_weights_is_refused(tmp_path):
    SafeCheckpointer(nn.Linear(100, 100), str(tmp_path)).save("model")
    content = bytearray((tmp_path / "model.pth").read_bytes())
    content[len(content) // 2] ^= 4
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(ValueError, match="corrupted"):
        SafeCheckpointer(nn.Linear(100, 100)).load(str(tmp_path / "model.pth"))


@pytest.mark.parametrize("name", ["a.pth", "a.pkl"])
def test_weights_that_are_not_finite_are_refused(tmp_path, name):
    weights = {"weight": np.full((2, 2), np.nan, np.float32), "bias": np.zeros(2, np.float32)}
    if name.endswith(".pkl"):
        (tmp_path / name).write_bytes(pickle.dumps({"model": weights, "__author__": "someone"}))
    else:
        torch.save({"model": {k: torch.as_tensor(v) for k, v in weights.items()}}, tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name} has weights that are not finite, in weight"):
        SafeCheckpointer(nn.Linear(2, 2)).load(str(tmp_path / name))


@pytest.mark.parametrize("prefix", ["module.", "model._orig_mod."])
@pytest.mark.parametrize("wrapper", ["model", "state_dict", "model_state_dict"])
def test_weights_are_read_as_training_scripts_write_them(tmp_path, prefix, wrapper):
    model, again = nn.Linear(2, 2), nn.Linear(2, 2)
    wrapped = {f"{prefix}{key}": value for key, value in model.state_dict().items()}
    content = {"epoch": 3, "args": argparse.Namespace(lr=0.1), wrapper: wrapped}
    torch.save(content, tmp_path / "a.pth")
    load_all_weights(again, str(tmp_path / "a.pth"))
    assert torch.equal(model.weight, again.weight)


def test_torchvisions_resnet_is_read_behind_a_prefix(tmp_path):
    network = resnet18()
    cfg = get_cfg()
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    backbone = nn.ModuleDict({"backbone": build_resnet_backbone(cfg, ShapeSpec(channels=3))})
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save({"net": state, "acc": np.float64(0.7)}, tmp_path / "a.pth")
    SafeCheckpointer(backbone).load(str(tmp_path / "a.pth"))
    assert torch.equal(backbone.backbone.stem.conv1.weight, network.conv1.weight)
    weight = backbone.backbone.res4[1].conv2.weight
    assert torch.equal(weight, network.layer3[1].conv2.weight)


def test_what_does_not_fit_is_named_with_its_file(tmp_path):
    state = {"weight": torch.ones(3, 2), "extra": torch.ones(1)}
    torch.save({"model": state}, tmp_path / "a.pth")
    with pytest.raises(CdlError) as refused:
        load_all_weights(nn.Linear(2, 2), str(tmp_path / "a.pth"))
    for part in ("a.pth", "bias", "extra", "(3, 2) instead of (2, 2)"):
        assert part in str(refused.value)


def test_detectron2s_zoo_format_is_read(tmp_path):
    weights = {"weight": np.ones((2, 2), np.float32), "bias": np.zeros(2, np.float32)}
    with (tmp_path / "zoo.pkl").open("wb") as file:
        pickle.dump({"model": weights, "__author__": "Detectron2 Model Zoo"}, file)
    model = nn.Linear(2, 2)
    SafeCheckpointer(model).load(str(tmp_path / "zoo.pkl"))
    assert (model.weight == 1).all()


@pytest.mark.parametrize("name", ["trap.pkl", "trap.pth"])
def test_loading_runs_no_code(tmp_path, name):
    path = tmp_path / name
    content = {"model": {"weight": _Trap()}, "__author__": "someone"}
    if name.endswith(".pkl"):
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match="cannot be read as weights"):
        SafeCheckpointer(nn.Linear(2, 2)).load(str(path))


class _Call:
    """Pickled as a call, and a state for what it gives."""

    def __init__(self, function, arguments, *state):
        self._reduced = (function, arguments, *state)

    def __reduce__(self):
        return self._reduced


def _array(dtype, shape=(1,), content=b"\x10" * 8):
    empty = (np.ndarray, (0,), b"b")
    return _Call(np.zeros(0).__reduce__()[0], empty, (1, shape, dtype, False, content))


_OBJECT_STATE = np.dtype(object).__reduce__()[2]
HOSTILE = {
    "objects": lambda: _array(np.dtype(object)),
    "numbers whose state says objects": lambda: _array(
        _Call(np.dtype, ("f8", False, True), _OBJECT_STATE)
    ),
    "objects whose state says numbers": lambda: _array(
        _Call(np.dtype, ("O8", False, True), (*_OBJECT_STATE[:-1], 0))
    ),
    "fields": lambda: _array(_Call(np.dtype, ([("a", "O")],))),
    "a scalar of objects": lambda: _Call(
        np.float64(1).__reduce__()[0], (np.dtype(object), b"\x10" * 8)
    ),
    "no content": lambda: _Call(np.ndarray, ((1,), "f8")),
    "more shape than content": lambda: _array(np.dtype("f8"), (2,)),
    "negative sides": lambda: _array(np.dtype("u1"), (-2, -4)),
    "a dtype that is none": lambda: _array("f8"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_array_of_anything_but_numbers_is_refused(tmp_path, kind):
    path = tmp_path / "hostile.pkl"
    path.write_bytes(pickle.dumps({"model": {"weight": HOSTILE[kind]()}, "__author__": "someone"}))
    with pytest.raises(ValueError, match="cannot be read as weights"):
        SafeCheckpointer(nn.Linear(2, 2)).load(str(path))


@pytest.mark.parametrize("dtype", ["f2", "<f4", ">f8", "u1", "b1", "<c16"])
@pytest.mark.parametrize("protocol", range(5))
def test_arrays_and_scalars_of_numbers_are_read(tmp_path, dtype, protocol):
    array = np.asfortranarray(np.arange(6).reshape(2, 3).astype(dtype))
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([array, array[1, 1]], protocol))
    read, scalar = read_pickled_arrays(tmp_path / "a.pkl")
    assert read.dtype == array.dtype.newbyteorder("=") and np.array_equal(read, array)
    assert scalar == array[1, 1]


def test_a_pickle_does_not_say_how_much_memory_is_taken(tmp_path):
    content = pickle.dumps({"model": {"a": np.ones(2, np.float32)}, "__author__": "x"}, protocol=2)
    hostile = content[:-1] + b"r" + (2**31).to_bytes(4, "little") + content[-1:]
    (tmp_path / "a.pkl").write_bytes(hostile)
    with pytest.raises(CdlError, match=r"a\.pkl"):
        SafeCheckpointer(nn.Linear(2, 2)).load(str(tmp_path / "a.pkl"))


@pytest.mark.parametrize("name", ["half.pkl", "half.pth"])
def test_a_truncated_file_is_refused(tmp_path, name):
    path = tmp_path / name
    torch.save({"model": {"weight": torch.zeros(500)}}, path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match="cannot be read as weights"):
        SafeCheckpointer(nn.Linear(2, 2)).load(str(path))


@pytest.mark.parametrize("name", ["a.pth", "a.pkl"])
@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"text", pickle.dumps([1, 2]), pickle.dumps({"blobs": 3}), pickle.dumps({3: 4})),
        pickle.dumps({"model": [1], "__author__": "someone"}),
        pickle.dumps({"model": {"weight": [1.0]}, "__author__": "someone"}),
        pickle.dumps({"model": {3: np.zeros(2)}, "__author__": "someone"}),
    ],
)
def test_a_file_that_holds_no_weights_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        SafeCheckpointer(nn.Linear(2, 2)).load(str(tmp_path / name))


@pytest.mark.parametrize("path", ["none.pth", "."])
def test_a_missing_file_or_a_folder_is_named(tmp_path, path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        SafeCheckpointer(nn.Linear(2, 2)).load(str(tmp_path / path))


def test_weights_that_cannot_be_fetched_are_named():
    with pytest.raises(CdlError, match=r"localhost:1/x.pth cannot be downloaded .*CONFIG:WEIGHTS"):
        SafeCheckpointer(nn.Linear(2, 2)).load("http://localhost:1/x.pth")
