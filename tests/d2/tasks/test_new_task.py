"""The task that docs/extending.md adds, from outside of the package."""

import csv
import importlib
import json
import sys

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY

from cdl_d2 import tasks
from cdl_d2.d2.tasks import table
from cdl_d2.prediction.tasks import TASKS
from tests.commands import output_of, refused
from tests.d2.modeling.test_classifier import FOLDER, TINY
from tests.documents import ROOT, blocks


@pytest.fixture
def regression(tmp_path, monkeypatch):
    """The example, imported; its records are removed again."""
    [example] = [b.text for b in blocks(ROOT / "docs/extending.md") if "register_task" in b.text]
    (tmp_path / "regression.py").write_text(example, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "regression", raising=False)
    yield importlib.import_module("regression")
    table.TASKS[:] = [task for task in table.TASKS if task.name != "regression"]
    for registered in (tasks.TASKS, TASKS, META_ARCH_REGISTRY._obj_map):
        for name in ("regression", "CompressedRegressor"):
            registered.pop(name, None)


@pytest.fixture
def values(tmp_path, regression):
    """A registered table of four images and their mean brightness, in 0..1."""
    folder = tmp_path / "images"
    folder.mkdir()
    rows = {f"{i}.png": i / 4 for i in range(4)}
    for name, value in rows.items():
        Image.fromarray(np.full((64, 64, 3), int(255 * value), np.uint8)).save(folder / name)
    with open(folder / "values.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows.items())
    regression.register_values("values", folder / "values.csv")
    yield folder / "values.csv"
    DatasetCatalog.pop("values")
    MetadataCatalog.pop("values")


def test_a_task_from_outside_is_trained_evaluated_and_predicted(values, tmp_path):
    out, predicted = tmp_path / "out", tmp_path / "predicted"
    options = [
        *("MODEL.META_ARCHITECTURE", "CompressedRegressor", "MODEL.CLASSIFIER.NUM_CLASSES", 1),
        *("DATASETS.TRAIN", "('values',)", "DATASETS.TEST", "('values',)"),
        *("SOLVER.MAX_ITER", 1, "SOLVER.STEPS", "()", "SOLVER.IMS_PER_BATCH", 2),
        *("INPUT.IMAGE_SIZE", 64, "DATALOADER.NUM_WORKERS", 0, "OUTPUT_DIR", out),
    ]
    config = FOLDER / "latent_resnet_small.yaml"
    output_of("train", "--config-file", config, *TINY, *options)
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert results["regression"]["mae"] >= 0 and results["rate"]["bpp"] > 0
    output_of(
        *("predict", out, values.parent, "--output", predicted, "--annotations", values, "--draw")
    )
    again = json.loads((predicted / "results.json").read_text(encoding="utf-8"))
    assert again["regression"]["mae"] == pytest.approx(results["regression"]["mae"], abs=1e-3)
    rows = list(csv.reader((predicted / "predictions.csv").open(encoding="utf-8")))
    assert rows[0] == ["file", "value"] and len(rows) == 5
    assert len(list((predicted / "pictures").iterdir())) == 4
    options += ["DATASETS.TEST", "('nowhere',)"]
    assert "nowhere" in refused("train", "--config-file", config, *TINY, *options)
