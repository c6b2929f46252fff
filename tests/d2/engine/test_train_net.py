"""`cdl train` and the commands around it."""

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from cdl_d2.d2 import register_dataset
from tests import warm
from tests.commands import ROOT, output_of, refused, run
from tests.d2.conftest import CONFIGS, PIXEL, SMALL


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


def test_train_resume_and_evaluate(arguments, server, tmp_path):
    out, script = tmp_path / "out", ROOT / "tools" / "train_net.py"
    as_main = f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"
    warm.script(server, as_main, *arguments)
    assert {"bbox/AP", "segm/AP", "rate/bpp", "rate/kB"} <= metrics(out).keys()
    assert metrics(out)["rate/bpp"] > 0

    at = arguments.index("SOLVER.MAX_ITER") + 1
    longer = [*arguments[:at], 6, *arguments[at + 1 :]]
    output_of("train", *longer[:2], "--resume", *longer[2:])
    state = torch.load(out / "model_final.pth", weights_only=True)
    assert state["iteration"] == 5

    (out / "results.json").unlink()
    output_of("train", *arguments[:2], "--eval-only", "--resume", *arguments[2:])
    assert (out / "results.json").exists()


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
    last = refused("train", *arguments)
    assert last.startswith("cdl train: data set train")
    assert message in last


def test_another_number_of_classes_is_one_clear_error(arguments):
    last = refused("train", *arguments, "MODEL.ROI_HEADS.NUM_CLASSES", 5)
    assert "has 2 classes: set MODEL.ROI_HEADS.NUM_CLASSES 2" in last


def test_a_missing_weight_file_is_one_clear_error(arguments):
    assert "nowhere.pth" in refused("train", *arguments, "MODEL.WEIGHTS", "nowhere.pth")


def test_a_missing_teacher_is_one_clear_error(arguments):
    teacher = ["MODEL.META_ARCHITECTURE", "TransferRCNN", "MODEL.TEACHER.CONFIG_FILE", "none.yaml"]
    last = refused("train", *arguments, *teacher)
    assert "none.yaml" in last


def test_evaluation_without_weights_is_one_clear_error(arguments):
    last = refused("train", *arguments[:2], "--eval-only", *arguments[2:])
    assert "MODEL.WEIGHTS" in last


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_noticed_before_anything_is_built(arguments, tmp_path):
    assert "cuda" in refused("train", *arguments, "MODEL.DEVICE", "cuda")
    assert not (tmp_path / "out").exists()


def drop_masks(path):
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation.pop("segmentation")
    path.write_text(json.dumps(content))


def test_masks_that_are_missing_are_named(arguments, coco_dataset):
    drop_masks(coco_dataset[0])
    assert refused("train", *arguments)


def test_boxes_alone_train_a_teacher_and_its_student(coco_dataset, tmp_path):
    drop_masks(coco_dataset[0])
    common = ["--register", "train", *coco_dataset, *SMALL, *PIXEL, "DATASETS.TEST", "('train',)"]
    common += ["SOLVER.MAX_ITER", 1, "SOLVER.STEPS", "()", "MODEL.BRIDGE.FIT_IMAGES", 2]
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    config = ["--config-file", "detection/small/pixel_faster_rcnn_small.yaml"]
    output_of("train", *config, *common, "OUTPUT_DIR", teacher)
    config = ["--config-file", "detection/small/bridge_faster_rcnn_small.yaml"]
    weights = ["MODEL.WEIGHTS", teacher / "model_final.pth"]
    weights += ["MODEL.TEACHER.CONFIG_FILE", teacher / "config.yaml"]
    weights += ["MODEL.TEACHER.WEIGHTS", teacher / "model_final.pth"]
    output_of("train", *config, *common, *weights, "OUTPUT_DIR", student)
    results = metrics(student)
    assert "bbox/AP" in results and not any("mask" in name or "segm" in name for name in results)


def test_a_pixel_network_codes_no_images(arguments, coco_dataset, tmp_path):
    config = CONFIGS / "detection/small/pixel_mask_rcnn_small.yaml"
    options = ["SOLVER.MAX_ITER", 1, "SOLVER.STEPS", "()", "DATASETS.TEST", "()"]
    plain = ["INPUT.DOMAIN", "image", "MODEL.META_ARCHITECTURE", "GeneralizedRCNN"]
    output_of("train", "--config-file", config, *arguments[2:], *options, *plain)
    words = ["--for", tmp_path / "out", "--output", tmp_path / "coded"]
    refused("codec", "compress", coco_dataset[1], *words)
    assert not (tmp_path / "coded").exists()


def test_statistics_are_kept_by_the_checkpoint(arguments, tmp_path):
    statistics = tmp_path / "statistics.safetensors"
    options = [*arguments[1:], "--images", 4, "--output", statistics]
    output_of("latents", "statistics", *options)
    output_of("train", *arguments, "MODEL.LATENT_RESNET.STATISTICS", statistics)
    state = torch.load(tmp_path / "out/model_final.pth", weights_only=True)["model"]
    assert state["backbone.bottom_up.pyramid.trunk.input.std"].unique().numel() > 10


def test_pictures_of_a_checkpoint(arguments, coco_dataset, tmp_path):
    output_of("train", *arguments)
    pictures = tmp_path / "pictures"
    unreadable = tmp_path / "text.png"
    unreadable.write_text("no picture")
    status, _, errors = run(  # goes on after what it cannot read
        *("visualize", tmp_path / "out", coco_dataset[1] / "000.png", unreadable),
        *("--output", pictures, "--threshold", 0.5, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.1),
    )
    assert status == 1 and "text.png" in errors
    written = sorted(p.name for p in pictures.iterdir())
    assert written == ["000_decoded.png", "000_latent.png", "000_prediction.png"]


def test_a_registered_name_is_not_taken_twice(coco_dataset):
    register_dataset("taken_once", *map(str, coco_dataset))
    with pytest.raises(ValueError, match="is registered already"):
        register_dataset("taken_once", *map(str, coco_dataset))
