"""What the heads of a Detectron2 R-CNN say at given places, for student and teacher alike.

Shapes: N images, A anchors a cell, H_i x W_i cells of level i, R boxes, K classes, S x S mask
pixels.
"""

from __future__ import annotations

from operator import attrgetter

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.roi_heads import (
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    StandardROIHeads,
)
from detectron2.structures import Boxes

from cdl_d2.errors import CdlError

# What must be the same for outputs of student and teacher to be compared: the key that says it, and
# where a built detector has it.
SHARED = {
    "MODEL.ANCHOR_GENERATOR.OFFSET": "proposal_generator.anchor_generator.offset",
    "MODEL.RPN.BBOX_REG_WEIGHTS": "proposal_generator.box2box_transform.weights",
    "MODEL.ROI_HEADS.NUM_CLASSES": "roi_heads.num_classes",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": "roi_heads.box_predictor.box2box_transform.weights",
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": "roi_heads.box_predictor.use_sigmoid_ce",
    "outputs for boxes (ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG)": (
        "roi_heads.box_predictor.bbox_pred.out_features"
    ),
}
SHARED_BY_MASKS = {
    "outputs for masks (ROI_MASK_HEAD.CLS_AGNOSTIC_MASK)": (
        "roi_heads.mask_head.predictor.out_channels"
    ),
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": "roi_heads.mask_pooler.output_size",
}

Levels = dict[str, torch.Tensor]


def check_detectors(
    ours: GeneralizedRCNN,
    theirs: GeneralizedRCNN,
    outputs: bool = True,
    through_teacher: bool = False,
) -> None:
    """Raise CdlError unless a student and a teacher can be compared.

    Args:
        outputs: whether outputs are compared, or the pyramids alone.
        through_teacher: whether the teacher's heads look at the student's pyramid.
    """
    mine, other = ours.backbone.output_shape(), theirs.backbone.output_shape()
    if not mine.keys() & other.keys():
        raise CdlError(
            f"student and teacher have no level in common: {', '.join(mine)} and {', '.join(other)}"
        )
    for level in mine.keys() & other.keys():
        if mine[level] != other[level]:
            raise CdlError(
                f"level {level} is {mine[level]} for the student but {other[level]} for the "
                "teacher: see MODEL.FPN.OUT_CHANNELS"
            )
    if not outputs:
        return
    for network in (ours, theirs):
        check_heads(network)
    if ours.roi_heads.mask_on and not theirs.roi_heads.mask_on:
        raise CdlError("MODEL.MASK_ON is True for the student but False for the teacher")
    heads = theirs.roi_heads
    needed = {*theirs.proposal_generator.in_features, *heads.box_in_features}
    lacking = needed - mine.keys() if through_teacher else set()
    if lacking:
        raise CdlError(
            f"the teacher's heads look at {min(lacking)}, which the student's pyramid has not: set "
            "MODEL.TRANSFER.HEADS student"
        )
    for key, place in (SHARED | (SHARED_BY_MASKS if ours.roi_heads.mask_on else {})).items():
        student, teacher = (attrgetter(place)(network) for network in (ours, theirs))
        if student != teacher:
            raise CdlError(f"{key} is {student} for the student but {teacher} for the teacher")
    mine, other = (_anchors_by_level(network) for network in (ours, theirs))
    for level in mine.keys() & other.keys():
        if mine[level] != other[level]:
            raise CdlError(
                f"anchors of {level} are {mine[level]} for the student but {other[level]} for the "
                "teacher: see MODEL.ANCHOR_GENERATOR.SIZES and ASPECT_RATIOS"
            )


def _anchors_by_level(network: GeneralizedRCNN) -> dict[str, list[list[float]]]:
    """The anchors of a cell of each level of the RPN, corners in pixels around its place."""
    rpn = network.proposal_generator
    cells = [[[round(c, 3) for c in box] for box in level.tolist()]
             for level in rpn.anchor_generator.cell_anchors]  # fmt: skip
    return dict(zip(rpn.in_features, cells, strict=True))


def check_heads(network: GeneralizedRCNN) -> None:
    """Raise CdlError unless the RoI heads are of the kind whose outputs can be compared."""
    heads = network.roi_heads
    plain = isinstance(heads, StandardROIHeads) and isinstance(
        heads.box_predictor, FastRCNNOutputLayers
    )
    if not plain or (heads.mask_on and not isinstance(heads.mask_head, MaskRCNNConvUpsampleHead)):
        raise CdlError(
            f"transfer compares Detectron2's standard RoI heads, not {type(heads).__name__} with "
            f"{type(heads.box_predictor).__name__}: set MODEL.TRANSFER.OUTPUTS.ENABLED False or "
            "MODEL.ROI_HEADS.NAME StandardROIHeads"
        )
    if heads.train_on_pred_boxes:
        raise CdlError(
            "transfer compares heads at the sampled proposals: set "
            "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES False"
        )


def anchor_outputs(
    network: GeneralizedRCNN, outputs: tuple[list[torch.Tensor], list[torch.Tensor]]
) -> tuple[Levels, Levels]:
    """What an RPN head gave, by the name of the level: objectness logits, N x A x H_i x W_i, and
    deltas, N x 4A x H_i x W_i."""
    levels = network.proposal_generator.in_features
    logits, deltas = (dict(zip(levels, each, strict=True)) for each in outputs)
    return logits, deltas


def anchors_at(network: GeneralizedRCNN, pyramid: Levels) -> tuple[Levels, Levels]:
    """anchor_outputs of a pyramid."""
    rpn = network.proposal_generator
    return anchor_outputs(network, rpn.rpn_head([pyramid[level] for level in rpn.in_features]))


def boxes_at(
    network: GeneralizedRCNN, pyramid: Levels, boxes: list[Boxes]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Class logits R x (K + 1) and box deltas R x 4K at the boxes of each image."""
    heads = network.roi_heads
    pooled = heads.box_pooler([pyramid[level] for level in heads.box_in_features], boxes)
    return heads.box_predictor(heads.box_head(pooled))


def masks_at(network: GeneralizedRCNN, pyramid: Levels, boxes: list[Boxes]) -> torch.Tensor:
    """Mask logits R x K x S x S at the boxes of each image."""
    heads = network.roi_heads
    pooled = heads.mask_pooler([pyramid[level] for level in heads.mask_in_features], boxes)
    return heads.mask_head.layers(pooled)
