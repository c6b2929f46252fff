"""tools/train_net.py as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from cdl_d2.d2 import register_dataset
from tests.commands import output_of, refused
from tests.d2.conftest import CONFIGS, SMALL

ROOT = CONFIGS.parent


def run(tool: str, *arguments, check: bool = True):
    command = [sys.executable, str(ROOT / "tools" / tool), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=_environment())
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def _environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}


@pytest.fixture
def arguments(coco_dataset, tmp_path):
    """What every run here needs: the small student on the small data set."""
    annotations, images = coco_dataset
    return [
        *("--config-file", CONFIGS / "detection/small/latent_mask_rcnn_small.yaml"),
        *("--register", "train", annotations, images),
        *SMALL,
        *("DATASETS.TEST", "('train',)", "MODEL.META_ARCHITECTURE", "CompressedRCNN"),
        *("SOLVER.MAX_ITER", 4, "SOLVER.STEPS", "(3,)", "SOLVER.CHECKPOINT_PERIOD", 2),
        *("SOLVER.IMS_PER_BATCH", 2, "OUTPUT_DIR", tmp_path / "out"),
    ]


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text().splitlines()[-1])


def test_train_resume_and_evaluate(arguments, tmp_path):
    out = tmp_path / "out"
    run("train_net.py", *arguments)
    assert {"bbox/AP", "segm/AP", "rate/bpp", "rate/kB"} <= metrics(out).keys()
    assert metrics(out)["rate/bpp"] > 0

    at = arguments.index("SOLVER.MAX_ITER") + 1
    longer = [*arguments[:at], 6, *arguments[at + 1 :]]
    done = run("train_net.py", *longer[:2], "--resume", *longer[2:])
    assert "Starting training from iteration 4" in done.stdout + done.stderr
    state = torch.load(out / "model_final.pth", weights_only=True)
    assert state["iteration"] == 5

    done = run("train_net.py", *arguments[:2], "--eval-only", "--resume", *arguments[2:])
    assert "bpp" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{not json", "is not JSON"),
        ("[]", "not COCO format"),
        ('{"images": [], "annotations": [], "categories": []}', "has no images"),
        (None, "no annotation file"),
    ],
)
def test_a_wrong_annotation_file_is_one_clear_error(arguments, tmp_path, content, message):
    path = tmp_path / "wrong.json"
    if content is not None:
        path.write_text(content)
    arguments[4] = path
    last = refused("train_net.py", *arguments)
    assert last.startswith("train_net: data set train")
    assert message in last


def test_another_number_of_classes_is_one_clear_error(arguments):
    last = refused("train_net.py", *arguments, "MODEL.ROI_HEADS.NUM_CLASSES", 5)
    assert "has 2 classes: set MODEL.ROI_HEADS.NUM_CLASSES 2" in last


def test_a_missing_weight_file_is_one_clear_error(arguments):
    done = run("train_net.py", *arguments, "MODEL.WEIGHTS", "nowhere.pth", check=False)
    assert done.returncode == 1
    assert "weights nowhere.pth do not exist" in done.stderr.strip().splitlines()[-1]


def test_a_missing_teacher_is_one_clear_error(arguments):
    teacher = ["MODEL.META_ARCHITECTURE", "TransferRCNN", "MODEL.TEACHER.CONFIG_FILE", "none.yaml"]
    last = refused("train_net.py", *arguments, *teacher)
    assert "the teacher's config none.yaml" in last


def test_evaluation_without_weights_is_one_clear_error(arguments):
    last = refused("train_net.py", *arguments[:2], "--eval-only", *arguments[2:])
    assert last == "train_net: no weights: give MODEL.WEIGHTS"


def test_statistics_are_kept_by_the_checkpoint(arguments, tmp_path):
    statistics = tmp_path / "statistics.safetensors"
    options = [*arguments[:2], "--images", 4, "--output", statistics, *arguments[2:]]
    output_of("latent_statistics.py", *options)
    output_of("train_net.py", *arguments, "MODEL.LATENT_RESNET.STATISTICS", statistics)
    state = torch.load(tmp_path / "out/model_final.pth", weights_only=True)["model"]
    assert state["backbone.bottom_up.pyramid.trunk.input.std"].unique().numel() > 10


def test_pictures_of_a_checkpoint(arguments, coco_dataset, tmp_path):
    output_of("train_net.py", *arguments)
    pictures = tmp_path / "pictures"
    unreadable = tmp_path / "text.png"
    unreadable.write_text("no picture")
    done = run(  # goes on after what it cannot read
        "visualize.py",
        *("--config-file", tmp_path / "out/config.yaml", "--output", pictures),
        *("--input", coco_dataset[1] / "000.png", unreadable),
        *("--opts", "MODEL.WEIGHTS", tmp_path / "out/model_final.pth"),
        check=False,
    )
    assert done.returncode == 1 and "text.png cannot be read" in done.stderr
    written = sorted(p.name for p in pictures.iterdir())
    assert written == ["000_detections.png", "000_latent.png"]


def test_a_registered_name_is_not_taken_twice(coco_dataset):
    register_dataset("taken_once", *map(str, coco_dataset))
    with pytest.raises(ValueError, match="is registered already"):
        register_dataset("taken_once", *map(str, coco_dataset))
