"""Several tasks, as a user trains and uses them."""

import csv
import json

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from cdl_d2.data.datasets.synthetic import SHAPES, write_multitask
from tests.commands import output_of, refused
from tests.d2.modeling.test_multitask import FOLDER, TINY

SCHEDULE = [
    *("SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 2, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 6),
    *("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", 64, "INPUT.CROP.SIZE", "(64,64)"),
    *("MODEL.ATTRIBUTE_HEAD.NUM_ATTRIBUTES", 5),
]
JOINT = [
    *("MODEL.CODEC.NAME", "tiny-zhang2022", "MODEL.CODEC.WEIGHTS", "untrained"),
    *("MODEL.JOINT.PERCEPTUAL_WEIGHT", 0.0, "MODEL.JOINT.PERCEPTUAL", "none"),
    *("MODEL.JOINT.ADVERSARIAL_FROM", 0, "MODEL.JOINT.TASKS_FROM", 0),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    list(write_multitask(folder, 4, (64, 96)))
    return folder


def words_for(name, folder, out, *options):
    files = [folder / each for each in ("images", "labels", "attributes.csv")]
    data = [w for part in ("train", "val") for w in ("--register-multitask", part, *files)]
    config = ["--config-file", FOLDER / f"{name}_multitask_small.yaml"]
    return [*config, *data, *TINY, *SCHEDULE, "OUTPUT_DIR", out, *options]


def test_a_codec_and_its_tasks_are_trained_coded_and_predicted(folder, tmp_path):
    run = tmp_path / "joint"
    output_of("train", *words_for("joint", folder, run, *JOINT))
    results = json.loads((run / "results.json").read_text())
    assert {"mIoU", "fwIoU", "pACC"} <= results["sem_seg"].keys()
    assert {"accuracy", "balanced_accuracy"} <= results["attributes"].keys()
    assert {"bpp", "psnr"} <= results["rate"].keys()
    assert {"parameters", "codec"} == results["model"].keys()
    codec = ["--codec", "tiny-zhang2022", "--quality", 2, "--codec-weights"]
    output_of(
        *("codec", "compress", folder / "images", "--output", tmp_path / "coded"),
        *(*codec, run / "codec.safetensors"),
    )
    answers = tmp_path / "answers"
    words = [tmp_path / "coded", "--output", answers, "--annotations", folder, "--draw"]
    output_of("predict", run, *words)
    with open(answers / "predictions.csv") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "label_map", *SHAPES] and len(rows) == 4
    assert all((answers / row["label_map"]).is_file() for row in rows)
    results = json.loads((answers / "results.json").read_text())
    assert {"sem_seg", "attributes", "rate"} == results.keys()


def test_data_of_other_counts_is_refused(folder, tmp_path):
    last = refused(
        "train",
        *words_for("latent", folder, tmp_path / "a", "MODEL.ATTRIBUTE_HEAD.NUM_ATTRIBUTES", 4),
    )
    assert "NUM_ATTRIBUTES" in last and "5" in last
