"""The trained models that come with the package."""

import importlib.util

import pytest
import torch

from cdl_d2 import Predictor, model_zoo
from cdl_d2.model_zoo.catalog import PACKAGED_CARDS

NAMES = sorted(path.stem for path in PACKAGED_CARDS.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_a_packaged_model_is_small_whole_and_runs(name):
    card = model_zoo.card(name)
    assert card.name == name and card.weights.bytes < 6_000_000
    assert card.metrics and card.command and card.data.licence
    if card.engine == "detectron2" and not importlib.util.find_spec("detectron2"):
        pytest.skip("Detectron2 is not installed")
    found = Predictor.load(name, "cpu")(torch.full((3, 64, 64), 128, dtype=torch.uint8))
    assert found.class_names == card.classes
