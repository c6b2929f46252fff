import pickle

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from cdl_d2.d2 import SafeCheckpointer


class _Trap:
    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle ran code')",))


def test_an_interrupted_save_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    model = nn.Linear(2, 2)
    checkpointer = SafeCheckpointer(model, str(tmp_path))
    checkpointer.save("model")
    before = (tmp_path / "model.pth").read_bytes()
    real_save = torch.save

    def interrupted(state, path):
        real_save(state, path)
        path.write_bytes(path.read_bytes()[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
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


@pytest.mark.parametrize("name", ["half.pkl", "half.pth"])
def test_a_truncated_file_is_refused(tmp_path, name):
    path = tmp_path / name
    torch.save({"model": {"weight": torch.zeros(500)}}, path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match="cannot be read as weights"):
        SafeCheckpointer(nn.Linear(2, 2)).load(str(path))


@pytest.mark.parametrize("name", ["a.pth", "a.pkl"])
@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps([1, 2])])
def test_a_file_that_holds_no_weights_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        SafeCheckpointer(nn.Linear(2, 2)).load(str(tmp_path / name))


@pytest.mark.parametrize("path", ["none.pth", "."])
def test_a_missing_file_or_a_folder_is_named(tmp_path, path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        SafeCheckpointer(nn.Linear(2, 2)).load(str(tmp_path / path))
