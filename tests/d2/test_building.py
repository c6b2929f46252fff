import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from cdl_d2.d2 import Trainer
from cdl_d2.d2.building import build_model
from cdl_d2.d2.config_files import read_config
from cdl_d2.d2.tasks import get_task
from cdl_d2.errors import CdlError
from tests.d2.conftest import CONFIGS, PIXEL, SMALL, small_cfg, small_model

PIXEL_CONFIG = CONFIGS / "detection/small/pixel_mask_rcnn_small.yaml"


@pytest.mark.parametrize(
    ("key", "value", "near"),
    [
        ("META_ARCHITECTURE", "TransferRCN", "TransferRCNN"),
        ("META_ARCHITECTURE", "os.system", "DETECTRON2_ENV_MODULE"),
        ("BACKBONE.NAME", "build_resnet_fpn_backbon", "build_resnet_fpn_backbone"),
        ("PROPOSAL_GENERATOR.NAME", "RPM", "RPN"),
        ("RPN.HEAD_NAME", "StandardRPNHea", "StandardRPNHead"),
        ("ANCHOR_GENERATOR.NAME", "DefaultAnchors", "DefaultAnchorGenerator"),
        ("ROI_HEADS.NAME", "StandardROIHead", "StandardROIHeads"),
        ("ROI_BOX_HEAD.NAME", "FastRCNNConvFC", "FastRCNNConvFCHead"),
        ("ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsample", "MaskRCNNConvUpsampleHead"),
        ("RESNETS.DEPTH", 7, ""),
        ("FPN.NORM", "nope", ""),
        ("ROI_BOX_HEAD.POOLER_TYPE", "nope", ""),
        ("ROI_HEADS.NUM_CLASSES", -1, ""),
        ("DEVICE", "gpu", ""),
    ],
)
def test_a_value_that_detectron2_does_not_know_is_named(key, value, near):
    cfg = read_config(PIXEL_CONFIG, [*SMALL, *PIXEL, f"MODEL.{key}", value])
    with pytest.raises(CdlError, match=rf"pixel_mask_rcnn_small\.yaml.*{key}") as caught:
        build_model(cfg.clone())
    assert near in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"), [("PIXEL_MEAN", [1.0]), ("ROI_HEADS.NUM_CLASSES", 10**13)]
)
def test_whatever_does_not_fit_is_one_error_that_names_the_file(key, value):
    with pytest.raises(CdlError, match=r"pixel_mask_rcnn_small\.yaml"):
        build_model(read_config(PIXEL_CONFIG, [*SMALL, *PIXEL, f"MODEL.{key}", value]))


def test_commands_ask_for_the_task_of_a_known_architecture_only():
    with pytest.raises(CdlError, match=r"META_ARCHITECTURE.*TransferRCNN"):
        get_task(read_config(PIXEL_CONFIG, ["MODEL.META_ARCHITECTURE", "TransferRCN"]))


def test_a_schedule_that_is_not_known_is_named():
    cfg = read_config(PIXEL_CONFIG, ["SOLVER.LR_SCHEDULER_NAME", "WarmupPoly"])
    model = small_model(small_cfg("pixel"))
    with pytest.raises(CdlError, match=r"LR_SCHEDULER_NAME"):
        Trainer.build_lr_scheduler(cfg, Trainer.build_optimizer(cfg, model))
