"""Models in folders of their own, and on the Hugging Face Hub, as far as one gets offline."""

from types import SimpleNamespace

import pytest
import torch

from cdl_d2 import Predictor
from cdl_d2.errors import CdlError
from cdl_d2.model_zoo.card import CardData
from cdl_d2.model_zoo.packing import Addition
from tests.prediction.conftest import save_tiny


@pytest.fixture
def predictor(home, tmp_path):
    """A small model of the zoo."""
    run = save_tiny(tmp_path / "run")
    Addition(run, "tiny", home, CardData("noise", "CC0", None)).write()
    return Predictor.load("tiny", "cpu")


def test_a_saved_model_predicts_the_same(predictor, tmp_path):
    predictor.save_pretrained(tmp_path / "saved")
    again = Predictor.from_pretrained(tmp_path / "saved", "cpu")
    pixels = torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)
    assert torch.equal(again(pixels).boxes, predictor(pixels).boxes)
    assert again.model.class_names == predictor.model.class_names
    assert "tiny-bmshj2018-hyperprior" in (tmp_path / "saved" / "README.md").read_text()
    again.save_pretrained(tmp_path / "copy")
    assert again(pixels).names == Predictor.from_pretrained(tmp_path / "copy", "cpu")(pixels).names


def test_what_is_pushed_is_what_is_saved(predictor, tmp_path, monkeypatch):
    hub, pushed = pytest.importorskip("huggingface_hub", reason="the hub is not installed"), {}

    def upload(self, *, repo_id, folder_path):
        names = sorted(path.name for path in __import__("pathlib").Path(folder_path).iterdir())
        pushed[repo_id] = names
        return f"https://hub.example/{repo_id}"

    monkeypatch.setattr(hub.HfApi, "create_repo", lambda self, *_, **__: SimpleNamespace())
    monkeypatch.setattr(hub.HfApi, "upload_folder", upload)
    assert predictor.push_to_hub("me/tiny").endswith("me/tiny")
    assert pushed == {"me/tiny": ["README.md", "card.yaml", "model.safetensors"]}


def test_a_changed_file_is_refused(predictor, tmp_path):
    predictor.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(CdlError, match="SHA-256"):
        Predictor.from_pretrained(tmp_path)


def test_what_cannot_be_shared_or_found_says_so(predictor, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"card\.yaml"):
        Predictor.from_pretrained(tmp_path)
    with pytest.raises(CdlError, match="cdl zoo add"):
        Predictor.load(tmp_path / "run").save_pretrained(tmp_path / "saved")
    pytest.importorskip("huggingface_hub", reason="the hub is not installed")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CdlError, match="Hub"):
        Predictor.from_pretrained("me/nothing-of-that-name")
    with pytest.raises(CdlError, match="USER/NAME"):
        Predictor.from_pretrained("not a name")
