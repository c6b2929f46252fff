"""The README's commands and script for Detectron2, run as they stand."""

import json
import os
import re
import subprocess
import sys

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from cdl_d2.d2 import SafeCheckpointer
from tests.d2.conftest import CONFIGS, small_cfg, small_model
from tests.readme import run_blocks

ROOT = CONFIGS.parent


def test_own_data_on_detectron2(tmp_path):
    run_blocks(tmp_path, "data", "detectron2")
    results = json.loads((tmp_path / "output/latent_mask_rcnn_small/results.json").read_text())
    assert results.keys() == {"bbox", "segm", "rate"}


def test_classification_and_joint_tuning(tmp_path):
    run_blocks(tmp_path, "classification")
    results = json.loads((tmp_path / "output/joint_classifier_small/results.json").read_text())
    assert results["rate"]["psnr"] > 10
    assert len(list((tmp_path / "tuned").iterdir())) == 1


def test_segmentation_and_selection(tmp_path):
    run_blocks(tmp_path, "segmentation", "selection")
    assert len(list((tmp_path / "pictures").iterdir())) == 5
    results = json.loads((tmp_path / "output/latent_deeplab_small/results.json").read_text())
    assert results.keys() == {"sem_seg", "rate"}


def test_an_existing_training_script_gains_latents_and_transfer(coco_dataset, tmp_path):
    readme = (ROOT / "README.md").read_text()
    script = re.search(r"<!-- drop-in.*?```python\n(.*?)```", readme, re.DOTALL)[1]
    annotations, images = coco_dataset
    (tmp_path / "train.json").symlink_to(annotations)
    (tmp_path / "images").symlink_to(images)
    cfg = small_cfg("pixel", "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", (1,), "OUTPUT_DIR", ".")
    SafeCheckpointer(small_model(cfg), str(tmp_path)).save("my_mask_rcnn")
    (tmp_path / "last_checkpoint").unlink()
    cfg.DATASETS.TRAIN, cfg.INPUT.DOMAIN = ("train",), "latent"
    (tmp_path / "my_mask_rcnn.yaml").write_text(cfg.dump())
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "loss_transfer_features" in (tmp_path / "metrics.json").read_text()
    assert (tmp_path / "model_final.pth").exists()
