"""What the heads of a Detectron2 R-CNN say at given places, for student and teacher alike.

Shapes: N images, A anchors a cell, H_i x W_i cells of level i, R boxes, K classes, S x S mask
pixels.
"""

from __future__ import annotations

from functools import reduce

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.roi_heads import (
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    StandardROIHeads,
)
from detectron2.structures import Boxes

from cdl_d2.errors import CdlError

# Outputs of student and teacher can be compared only if these are the same in both configs.
SHARED_KEYS = (
    "MODEL.ANCHOR_GENERATOR.OFFSET",
    "MODEL.FPN.OUT_CHANNELS",
    "MODEL.RPN.BBOX_REG_WEIGHTS",
    "MODEL.ROI_HEADS.NUM_CLASSES",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS",
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG",
    "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK",
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION",
)

Levels = dict[str, torch.Tensor]


def check_detectors(ours: CfgNode, theirs: CfgNode) -> None:
    """Raise CdlError unless outputs of a student and a teacher can be compared."""
    for key in SHARED_KEYS:
        student, teacher = (reduce(getattr, key.split("."), cfg) for cfg in (ours, theirs))
        if student != teacher:
            raise CdlError(f"{key} is {student} for the student but {teacher} for the teacher")
    mine, other = (_anchors_by_level(cfg) for cfg in (ours, theirs))
    if not mine.keys() & other.keys():
        raise CdlError(
            f"student and teacher have no level of MODEL.RPN.IN_FEATURES in common: {list(mine)} "
            f"and {list(other)}"
        )
    for level in mine.keys() & other.keys():
        if mine[level] != other[level]:
            raise CdlError(
                f"anchors of {level} have MODEL.ANCHOR_GENERATOR.SIZES and ASPECT_RATIOS "
                f"{mine[level]} for the student but {other[level]} for the teacher"
            )
    if ours.MODEL.MASK_ON and not theirs.MODEL.MASK_ON:
        raise CdlError("MODEL.MASK_ON is True for the student but False for the teacher")


def _anchors_by_level(cfg: CfgNode) -> dict[str, tuple[list, list]]:
    """Sizes and aspect ratios of the anchors of each level; one list serves all levels."""
    levels = cfg.MODEL.RPN.IN_FEATURES
    sizes, ratios = (
        each if len(each) == len(levels) else list(each) * len(levels)
        for each in (cfg.MODEL.ANCHOR_GENERATOR.SIZES, cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS)
    )
    return {level: (sizes[i], ratios[i]) for i, level in enumerate(levels)}


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
