"""Students and teachers of other kinds than Mask R-CNN, compared in what they have in common."""

import sys
import types

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.config import LazyCall, instantiate
from detectron2.modeling import build_model

from cdl_d2.d2 import TransferRCNN
from cdl_d2.errors import CdlError
from cdl_d2.transfer import DetectorTransfer
from tests.d2.conftest import PIXEL, make_item, small_cfg, small_model

AGNOSTIC = ["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True]
CASCADE = ["MODEL.ROI_HEADS.NAME", "CascadeROIHeads", *AGNOSTIC]
KEYPOINTS = ["MODEL.KEYPOINT_ON", True, "MODEL.MASK_ON", False, "MODEL.ROI_HEADS.NUM_CLASSES", 1]
CLASSES = ["MODEL.ROI_HEADS.NUM_CLASSES", 5]
SOME = ["class", "box_deltas", "mask"]
# What of outputs a student of two classes can learn from each.
OTHERS = {"cascade": (CASCADE, ["mask"]), "keypoints": (KEYPOINTS, []), "classes": (CLASSES, [])}


def pixel_detector(*options):
    return small_model(small_cfg("pixel", *options))


def student(teacher, transfer, *options):
    cfg = small_cfg("latent", *options)
    arguments = {"teacher": teacher, "transfer": transfer}
    torch.manual_seed(0)
    return TransferRCNN(**TransferRCNN.from_config(cfg) | arguments).train()


def terms(*outputs):
    return DetectorTransfer(weights=dict.fromkeys(["features", *outputs], 1.0))


def assert_learns(model, transfer, item=None):
    losses = model([item or make_item(96, 128)])
    by_term = {k.removeprefix("loss_transfer_"): v for k, v in losses.items() if "transfer" in k}
    assert by_term.keys() == transfer.terms
    assert all(value > 0 and value.isfinite() for value in by_term.values())
    sum(by_term.values()).backward()
    assert all(p.grad is None for p in model.teacher.parameters())


@pytest.mark.parametrize("kind", OTHERS)
def test_a_teacher_of_another_kind_gives_what_both_have(storage, kind):
    options, outputs = OTHERS[kind]
    transfer = terms("objectness", "anchor_deltas", *outputs)
    assert_learns(student(pixel_detector(*options), transfer), transfer)


@pytest.mark.parametrize("kind", OTHERS)
def test_what_a_teacher_of_another_kind_cannot_give_says_what_to_set(kind):
    options, outputs = OTHERS[kind]
    model = student(pixel_detector(*options), DetectorTransfer())
    with pytest.raises(CdlError) as caught:
        model.prepare_teacher()
    set_to_zero = str(caught.value).split("MODEL.TRANSFER.OUTPUTS.")[1:]
    refused = {name.split()[0].lower() for name in set_to_zero}
    assert refused and not refused & {"objectness", "anchor_deltas", *outputs}


@pytest.mark.parametrize("options", [CASCADE, [*KEYPOINTS, "MODEL.KEYPOINT_ON", False]])
def test_a_student_of_another_kind_learns_from_mask_r_cnn(storage, options):
    transfer = terms("objectness", "anchor_deltas")
    item = make_item(96, 128)
    item["instances"].gt_classes[:] = 0
    assert_learns(student(pixel_detector(), transfer, *options), transfer, item)


def test_a_cascades_masks_are_compared(storage):
    transfer = terms("mask")
    assert_learns(student(pixel_detector(*CASCADE), transfer, *CASCADE), transfer)


def test_through_the_teachers_heads_class_sets_may_differ(storage):
    transfer = DetectorTransfer(heads="teacher")
    assert_learns(student(pixel_detector(*CLASSES), transfer), transfer)


def test_point_rend_teaches_all_but_masks(storage, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", types.ModuleType("cv2"))  # for its augmentations only
    point_rend = pytest.importorskip("detectron2.projects.point_rend")
    cfg = small_cfg("pixel")
    point_rend.add_pointrend_config(cfg)
    cfg.merge_from_list(
        [
            *("MODEL.ROI_MASK_HEAD.NAME", "PointRendMaskHead", "MODEL.ROI_MASK_HEAD.FC_DIM", 16),
            *("MODEL.ROI_MASK_HEAD.NUM_FC", 1, "MODEL.ROI_MASK_HEAD.POOLER_TYPE", ""),
            *("MODEL.ROI_MASK_HEAD.OUTPUT_SIDE_RESOLUTION", 7),
            *("MODEL.ROI_MASK_HEAD.IN_FEATURES", ["p2"], "MODEL.POINT_HEAD.NUM_CLASSES", 2),
            *("MODEL.POINT_HEAD.FC_DIM", 16, "MODEL.ROI_MASK_HEAD.POINT_HEAD_ON", True),
        ]
    )
    teacher = build_model(cfg)
    assert type(teacher.roi_heads.mask_head).__name__ == "PointRendMaskHead"
    with pytest.raises(CdlError, match="PointRendMaskHead"):
        student(teacher, DetectorTransfer()).prepare_teacher()
    transfer = terms("objectness", "anchor_deltas", "class", "box_deltas")
    assert_learns(student(teacher, transfer), transfer)


def test_a_lazy_config_may_hold_the_teacher_itself(storage):
    transfer = terms("objectness")
    arguments = TransferRCNN.from_config(small_cfg("latent"))
    teacher = LazyCall(build_model)(cfg=small_cfg("pixel", *PIXEL))
    arguments |= {"teacher": teacher, "transfer": transfer}
    model = instantiate(LazyCall(TransferRCNN)(**arguments)).train()
    assert_learns(model, transfer)


def test_a_teacher_that_does_not_say_its_order_of_channels_is_refused():
    teacher = pixel_detector()
    teacher.input_format = None
    with pytest.raises(CdlError, match="channel_order"):
        student(teacher, terms()).prepare_teacher()
    teacher.channel_order = "RGB"
    student(teacher, terms()).prepare_teacher()
