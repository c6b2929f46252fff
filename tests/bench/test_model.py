import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.modeling import GeneralizedRCNN

from cdl_d2.bench.counts import count_multiply_adds
from cdl_d2.bench.model import run_benchmark
from cdl_d2.d2.applications.measured_parts import _detectors, _fixed_outputs
from cdl_d2.d2.config_files import read_config
from cdl_d2.errors import CdlError
from tests.d2.conftest import (  # noqa: F401
    make_item,
    small_cfg,
    teacher_files,
    teacher_folder,
    transfer_cfg,
)

PARTS = ("backbone", "heads", "detector")


def test_every_part_is_measured_and_compared(transfer_cfg):  # noqa: F811
    rows = {row["part"]: row for row in run_benchmark(transfer_cfg, (256, 256), repeats=2)}
    halves = [f"{kind}_{part}" for kind in ("pixel", "latent") for part in PARTS]
    parts = ["encode", "decode", *halves, "train_step", "train_step_transfer"]
    assert list(rows)[:10] == parts
    assert all(rows[part]["median ms"] >= rows[part]["fastest ms"] > 0 for part in parts)
    assert len(rows) == 13 and all(rows[name]["ratio"] > 0 for name in list(rows)[10:])


def test_training_steps_can_be_left_out(transfer_cfg):  # noqa: F811
    rows = run_benchmark(transfer_cfg, (256, 256), repeats=1, detection_only=True)
    assert len(rows) == 10 and not any("train" in row["part"] for row in rows)


@pytest.mark.parametrize("kind", ["bridge", "latent"])
def test_both_detectors_do_the_same_work_behind_their_backbones(teacher_files, kind):  # noqa: F811
    options = "MODEL.TEACHER.CONFIG_FILE", str(teacher_files[0]), "TEST.DETECTIONS_PER_IMAGE", 7
    student, teacher, _ = _detectors(small_cfg(kind, *options))
    shared = teacher.state_dict()
    assert all(
        torch.equal(value, shared[name])
        for name, value in student.state_dict().items()
        if name.startswith(("proposal_generator", "roi_heads"))
    )
    item = make_item(128, 192)
    results = []
    for network in (student, teacher):
        given = student.encode([item]) if network is student else [item]
        network.eval()
        with torch.no_grad(), _fixed_outputs(network):
            results.append(network(given)[0]["instances"])
    for detections in results:
        assert len(detections) == 7 and detections.pred_masks.shape == (7, 128, 192)
    assert torch.equal(*(detections.pred_boxes.tensor for detections in results))
    assert torch.equal(*(detections.pred_classes for detections in results))


def test_a_teacher_may_be_a_lazy_config():
    lazy = "new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py"
    cfg = small_cfg("bridge", "MODEL.TEACHER.CONFIG_FILE", lazy)
    _, teacher, _ = _detectors(cfg)
    assert isinstance(teacher, GeneralizedRCNN)
    counts = count_multiply_adds(cfg, (64, 64))
    assert counts["teacher_backbone"] > counts["student_backbone"]


@pytest.mark.parametrize(
    "config",
    [
        "segmentation/small/latent_deeplab_small.yaml",
        "detection/small/latent_retinanet_small.yaml",
        "classification/small/latent_resnet_small.yaml",
    ],
)
def test_a_model_that_is_no_r_cnn_is_refused(config):
    cfg = read_config(config, ["MODEL.TEACHER.CONFIG_FILE", "x.yaml"])
    with pytest.raises(CdlError, match="no R-CNN"):
        run_benchmark(cfg, (256, 256), repeats=1)


def test_a_config_without_a_latent_student_is_refused():
    with pytest.raises(ValueError, match=r"needs INPUT\.DOMAIN latent"):
        run_benchmark(small_cfg("pixel"), (256, 256), repeats=1)
