"""Checks that the outputs of two Detectron2 R-CNNs, student and teacher, can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter

from detectron2.layers import ShapeSpec
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import (
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    StandardROIHeads,
)

from cdl_d2.errors import CdlError
from cdl_d2.transfer.detector import ANCHOR_TERMS, BOX_TERMS, OUTPUT_TERMS, DetectorTransfer

# Heads whose outputs a term compares: attribute of a detector, and class.
_BOX_HEADS = {"roi_heads": StandardROIHeads, "roi_heads.box_predictor": FastRCNNOutputLayers}
HEAD_CLASSES: dict[str, dict[str, type]] = {
    "objectness": {"proposal_generator": RPN},
    "anchor_deltas": {"proposal_generator": RPN},
    "class": _BOX_HEADS,
    "box_deltas": _BOX_HEADS,
    "mask": {"roi_heads": StandardROIHeads, "roi_heads.mask_head": MaskRCNNConvUpsampleHead},
}
# Values that must be equal in student and teacher: config key or description, and attribute.
_ANCHOR_OFFSET = {"MODEL.ANCHOR_GENERATOR.OFFSET": "proposal_generator.anchor_generator.offset"}
EQUAL_VALUES = {
    "objectness": _ANCHOR_OFFSET,
    "anchor_deltas": _ANCHOR_OFFSET
    | {"MODEL.RPN.BBOX_REG_WEIGHTS": "proposal_generator.box2box_transform.weights"},
    "class": {
        "MODEL.ROI_HEADS.NUM_CLASSES": "roi_heads.num_classes",
        "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": "roi_heads.box_predictor.use_sigmoid_ce",
    },
    "box_deltas": {
        "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": "roi_heads.box_predictor.box2box_transform.weights",
        "outputs for boxes (ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG)": (
            "roi_heads.box_predictor.bbox_pred.out_features"
        ),
    },
    "mask": {
        "outputs for masks (ROI_MASK_HEAD.CLS_AGNOSTIC_MASK)": (
            "roi_heads.mask_head.predictor.out_channels"
        ),
        "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": "roi_heads.mask_pooler.output_size",
    },
}


def compared_terms(student: GeneralizedRCNN, transfer: DetectorTransfer) -> set[str]:
    """Return the terms that can be computed for a student: no `mask` without a mask head."""
    has_masks = getattr(student.roi_heads, "mask_on", False)
    return transfer.terms if has_masks else transfer.terms - {"mask"}


def check_student(student: GeneralizedRCNN, transfer: DetectorTransfer) -> None:
    """Raise CdlError unless a student has the heads whose outputs are compared."""
    terms, heads = compared_terms(student, transfer), student.roi_heads
    if transfer.heads == "student":
        _check_heads("student", student, terms)
    if terms & {*BOX_TERMS, "mask"}:
        if not isinstance(heads, StandardROIHeads):
            raise CdlError(
                f"roi_heads of the student, a {type(heads).__name__}, are no StandardROIHeads, at "
                f"whose proposals outputs are compared: {_disable_advice(terms)}"
            )
        if heads.train_on_pred_boxes:
            raise CdlError(
                "transfer compares heads at the sampled proposals: set "
                "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES False"
            )


def check_detectors(
    student: GeneralizedRCNN, teacher: GeneralizedRCNN, transfer: DetectorTransfer
) -> None:
    """Raise CdlError unless the outputs of student and teacher can be compared.

    Heads, classes and anchors may differ where no term compares them, or where the teacher's heads
    compute the outputs of both.
    """
    terms, crossed = compared_terms(student, transfer), transfer.heads == "teacher"
    _check_heads("teacher", teacher, terms)
    pyramid = student.backbone.output_shape()
    if "features" in terms or crossed:
        _check_levels(pyramid, teacher.backbone.output_shape())
    if crossed:
        _check_levels_of_heads(pyramid, teacher, terms)
        return
    differences = {}
    for term in [term for term in EQUAL_VALUES if term in terms]:
        for key, attribute in EQUAL_VALUES[term].items():
            values = [attrgetter(attribute)(network) for network in (student, teacher)]
            if values[0] != values[1]:
                differences[term] = (
                    f"{key} is {values[0]} for the student but {values[1]} for the teacher"
                )
    if differences:
        advice = _disable_advice({*differences})
        raise CdlError(f"{next(iter(differences.values()))}: {advice}")
    if terms & ANCHOR_TERMS:
        _check_anchors(student, teacher)


def _check_heads(role: str, network: GeneralizedRCNN, terms: set[str]) -> None:
    for term in [term for term in HEAD_CLASSES if term in terms]:
        for path, head_class in HEAD_CLASSES[term].items():
            head = network
            for name in path.split("."):
                head = getattr(head, name, None)
            if not isinstance(head, head_class):
                dependent = {name for name in terms if path in HEAD_CLASSES.get(name, {})}
                raise CdlError(
                    f"{term} is compared at a {head_class.__name__}, but {path} of the {role}, "
                    f"with {type(network.roi_heads).__name__}, is a {type(head).__name__}: "
                    f"{_disable_advice(dependent)}, or use other heads"
                )


def _disable_advice(terms: set[str]) -> str:
    """Return the advice to disable terms."""
    keys = [term.upper() for term in OUTPUT_TERMS if term in terms]
    return "set " + " ".join(f"MODEL.TRANSFER.OUTPUTS.{key} 0.0" for key in keys)


def _check_levels(student: Mapping[str, ShapeSpec], teacher: Mapping[str, ShapeSpec]) -> None:
    shared = student.keys() & teacher.keys()
    if not shared:
        raise CdlError(
            "student and teacher have no level in common: "
            f"{', '.join(student)} and {', '.join(teacher)}"
        )
    for level in shared:
        if student[level] != teacher[level]:
            raise CdlError(
                f"level {level} is {student[level]} for the student but {teacher[level]} for the "
                "teacher: check MODEL.FPN.OUT_CHANNELS"
            )


def _check_levels_of_heads(
    pyramid: Mapping[str, ShapeSpec], teacher: GeneralizedRCNN, terms: set[str]
) -> None:
    levels: set[str] = set()
    if terms & ANCHOR_TERMS:
        levels |= {*teacher.proposal_generator.in_features}
    if terms & BOX_TERMS:
        levels |= {*teacher.roi_heads.box_in_features}
    if "mask" in terms:
        levels |= {*teacher.roi_heads.mask_in_features}
    if levels - pyramid.keys():
        raise CdlError(
            f"the teacher's heads read {min(levels - pyramid.keys())}, which the student's pyramid "
            "does not have: set MODEL.TRANSFER.HEADS student"
        )


def _check_anchors(student: GeneralizedRCNN, teacher: GeneralizedRCNN) -> None:
    anchors = [_anchors_by_level(network) for network in (student, teacher)]
    shared = anchors[0].keys() & anchors[1].keys()
    if not shared:
        names = " and ".join(", ".join(levels) for levels in anchors)
        raise CdlError(f"the region proposal networks have no level in common: {names}")
    for level in shared:
        if anchors[0][level] != anchors[1][level]:
            raise CdlError(
                f"anchors of {level} are {anchors[0][level]} for the student but "
                f"{anchors[1][level]} for the teacher: check MODEL.ANCHOR_GENERATOR.SIZES and "
                f"ASPECT_RATIOS, or {_disable_advice(ANCHOR_TERMS)}"
            )


def _anchors_by_level(network: GeneralizedRCNN) -> dict[str, list[list[float]]]:
    """Return the RPN's anchors of a position of each level, corners in pixels around its center."""
    rpn = network.proposal_generator
    anchors = [[[round(c, 3) for c in box] for box in level.tolist()]
               for level in rpn.anchor_generator.cell_anchors]  # fmt: skip
    return dict(zip(rpn.in_features, anchors, strict=True))
