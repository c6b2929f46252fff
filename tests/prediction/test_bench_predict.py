"""cdl bench predict: which parts there are, and that another runtime finds the same."""

import json

import pytest
import torch

from cdl_d2.bench.predict import PARTS
from cdl_d2.bench.runtimes import with_runtime
from cdl_d2.prediction import Predictor
from cdl_d2.prediction.loading import load_model
from tests.commands import output_of, refused
from tests.prediction.conftest import save_tiny
from tests.tv.conftest import shallow


def test_models_are_measured_side_by_side(latent_model, pixel_model, coded):
    words = latent_model, coded, "--against", pixel_model, "--workers", 1, "--json"
    latent, pixel = json.loads(output_of("bench", "predict", *words))
    for row in (latent, pixel):
        assert row["images/s with 1"] > 0
        assert sum(row[part] for part in PARTS) == pytest.approx(row["total"], rel=0.5)
        assert (row["workers"] > 1) == (row["bound by"] == "reading") and row["workers"] >= 1
    assert latent["decoder"] == 0 < pixel["decoder"] and latent["hyperprior"] > 0


def test_what_cannot_be_measured_is_one_line(latent_model, images, coded):
    words = "bench", "predict", latent_model
    assert "0.png" in refused(*words, images)
    assert "--workers" in refused(*words, coded, "--runtime", "compile", "--workers", 2)


def test_another_runtime_finds_the_same(tmp_path, coded):
    for package in ("onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    model = load_model(save_tiny(tmp_path / "run"), "cpu")
    shallow(model.network)
    path = coded / "0.cdlz"
    expected = Predictor(model)(path)
    prediction = Predictor(with_runtime(model, "onnxruntime", tmp_path))(path)
    assert torch.allclose(expected.scores, prediction.scores, atol=1e-4)
