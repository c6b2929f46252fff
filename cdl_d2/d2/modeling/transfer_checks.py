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

# The heads whose outputs each term compares: where a detector has them, and of which kind.
_BOX_HEADS = {"roi_heads": StandardROIHeads, "roi_heads.box_predictor": FastRCNNOutputLayers}
KINDS: dict[str, dict[str, type]] = {
    "objectness": {"proposal_generator": RPN},
    "anchor_deltas": {"proposal_generator": RPN},
    "class": _BOX_HEADS,
    "box_deltas": _BOX_HEADS,
    "mask": {"roi_heads": StandardROIHeads, "roi_heads.mask_head": MaskRCNNConvUpsampleHead},
}
# What must be the same for outputs of student and teacher to be compared: the key that says it, and
# where a built detector has it.
_ANCHOR_PLACES = {"MODEL.ANCHOR_GENERATOR.OFFSET": "proposal_generator.anchor_generator.offset"}
SHARED = {
    "objectness": _ANCHOR_PLACES,
    "anchor_deltas": _ANCHOR_PLACES
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


def compared_terms(ours: GeneralizedRCNN, transfer: DetectorTransfer) -> set[str]:
    """The terms that count for a student: no masks of one that finds none."""
    has_masks = getattr(ours.roi_heads, "mask_on", False)
    return transfer.terms if has_masks else transfer.terms - {"mask"}


def check_student(ours: GeneralizedRCNN, transfer: DetectorTransfer) -> None:
    """Raise CdlError unless a student has what the terms that count compare."""
    terms = compared_terms(ours, transfer)
    if transfer.heads == "student":
        _check_kinds("student", ours, terms)
    if terms & {*BOX_TERMS, "mask"}:
        if not isinstance(ours.roi_heads, StandardROIHeads):
            raise CdlError(
                f"roi_heads of the student, a {type(ours.roi_heads).__name__}, are no "
                f"StandardROIHeads, at whose proposals outputs are compared: {_without(terms)}"
            )
        if ours.roi_heads.train_on_pred_boxes:
            raise CdlError(
                "transfer compares heads at the sampled proposals: set "
                "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES False"
            )


def check_detectors(
    ours: GeneralizedRCNN, theirs: GeneralizedRCNN, transfer: DetectorTransfer
) -> None:
    """Raise CdlError unless a student and a teacher can be compared, in the terms that count.

    Other heads, class sets and anchors than the student's are no matter for terms that do not look
    at them; nor where the teacher's heads make the outputs of both.
    """
    terms, crossed = compared_terms(ours, transfer), transfer.heads == "teacher"
    _check_kinds("teacher", theirs, terms)
    mine, other = ours.backbone.output_shape(), theirs.backbone.output_shape()
    if "features" in terms or crossed:
        _check_levels(mine, other)
    if crossed:
        _check_teachers_levels(theirs, mine, terms)
        return
    differing = {
        term: f"{key} is {student} for the student but {teacher} for the teacher"
        for term, keys in SHARED.items()
        for key, place in keys.items()
        if term in terms
        for student, teacher in [[attrgetter(place)(network) for network in (ours, theirs)]]
        if student != teacher
    }
    if differing:
        raise CdlError(f"{next(iter(differing.values()))}: {_without({*differing})}")
    if terms & ANCHOR_TERMS:
        _check_anchors(ours, theirs)


def _check_kinds(whose: str, network: GeneralizedRCNN, terms: set[str]) -> None:
    for term in [term for term in KINDS if term in terms]:
        for place, kind in KINDS[term].items():
            head = network
            for name in place.split("."):
                head = getattr(head, name, None)
            if not isinstance(head, kind):
                within = type(network.roi_heads).__name__
                alike = {each for each in terms if place in KINDS.get(each, {})}
                raise CdlError(
                    f"{term} is compared of a {kind.__name__}, but {place} of the {whose}, with "
                    f"{within}, is a {type(head).__name__}: {_without(alike)}, or take other heads"
                )


def _without(terms: set[str]) -> str:
    """What to set to leave terms of outputs out."""
    keys = [term.upper() for term in OUTPUT_TERMS if term in terms]
    return "set " + " ".join(f"MODEL.TRANSFER.OUTPUTS.{key} 0.0" for key in keys)


def _check_levels(mine: Mapping[str, ShapeSpec], other: Mapping[str, ShapeSpec]) -> None:
    shared = mine.keys() & other.keys()
    if not shared:
        raise CdlError(
            f"student and teacher have no level in common: {', '.join(mine)} and {', '.join(other)}"
        )
    for level in shared:
        if mine[level] != other[level]:
            raise CdlError(
                f"level {level} is {mine[level]} for the student but {other[level]} for the "
                "teacher: see MODEL.FPN.OUT_CHANNELS"
            )


def _check_teachers_levels(
    theirs: GeneralizedRCNN, mine: Mapping[str, ShapeSpec], terms: set[str]
) -> None:
    needed: set[str] = set()
    if terms & ANCHOR_TERMS:
        needed |= {*theirs.proposal_generator.in_features}
    if terms & BOX_TERMS:
        needed |= {*theirs.roi_heads.box_in_features}
    if "mask" in terms:
        needed |= {*theirs.roi_heads.mask_in_features}
    if needed - mine.keys():
        raise CdlError(
            f"the teacher's heads look at {min(needed - mine.keys())}, which the student's pyramid "
            "has not: set MODEL.TRANSFER.HEADS student"
        )


def _check_anchors(ours: GeneralizedRCNN, theirs: GeneralizedRCNN) -> None:
    mine, other = (_anchors_by_level(network) for network in (ours, theirs))
    if not mine.keys() & other.keys():
        raise CdlError(
            f"the region proposal networks have no level in common: {', '.join(mine)} and "
            f"{', '.join(other)}"
        )
    for level in mine.keys() & other.keys():
        if mine[level] != other[level]:
            raise CdlError(
                f"anchors of {level} are {mine[level]} for the student but {other[level]} for the "
                "teacher: see MODEL.ANCHOR_GENERATOR.SIZES and ASPECT_RATIOS, or "
                f"{_without(ANCHOR_TERMS)}"
            )


def _anchors_by_level(network: GeneralizedRCNN) -> dict[str, list[list[float]]]:
    """The anchors of a cell of each level of the RPN, corners in pixels around its place."""
    rpn = network.proposal_generator
    cells = [[[round(c, 3) for c in box] for box in level.tolist()]
             for level in rpn.anchor_generator.cell_anchors]  # fmt: skip
    return dict(zip(rpn.in_features, cells, strict=True))
