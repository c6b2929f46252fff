"""Post-processing of Detectron2's detectors, described for the card of an export."""

from __future__ import annotations

from typing import Any

from detectron2.modeling import FCOS, GeneralizedRCNN, RetinaNet
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads

from cdl_d2.export.post_processing import Decoding, Pooling, post_processing


def rcnn_post_processing(model: GeneralizedRCNN) -> dict[str, Any]:
    """Describe how an R-CNN turns the outputs of its graphs into boxes."""
    rpn, heads = model.proposal_generator, model.roi_heads
    proposals = Decoding(
        "sigmoid of objectness",
        rpn.pre_nms_topk[False],
        {"rpn": rpn.box2box_transform.weights},
        rpn.box2box_transform.scale_clamp,
        rpn.min_box_size,
        0.0,
        rpn.nms_thresh,
        rpn.post_nms_topk[False],
    )
    if isinstance(heads, CascadeROIHeads):
        stages = {f"box_{i}": stage for i, stage in enumerate(heads.box_predictor, 1)}
    else:
        stages = {"box": heads.box_predictor}
    last = list(stages.values())[-1]
    activation = "sigmoid" if last.use_sigmoid_ce else "softmax"
    detections = Decoding(
        f"{activation} of class_logits",
        None,
        {name: stage.box2box_transform.weights for name, stage in stages.items()},
        last.box2box_transform.scale_clamp,
        0.0,
        last.test_score_thresh,
        last.test_nms_thresh,
        last.test_topk_per_image,
    )
    return post_processing(
        rpn.in_features,
        list(rpn.anchor_generator.cell_anchors),
        rpn.anchor_generator.offset,
        proposals=proposals,
        pooling={graph: _pooling(*inputs) for graph, inputs in _pooled(heads, stages).items()},
        detections=detections,
    )


def _pooled(heads: Any, stages: dict[str, Any]) -> dict[str, tuple[list[str], ROIPooler]]:
    """Return the levels that each graph of RoI heads pools from, and its pooler."""
    if isinstance(heads, Res5ROIHeads):
        boxes = masks = (heads.in_features, heads.pooler)
    else:
        boxes = (heads.box_in_features, heads.box_pooler)
        masks = (heads.mask_in_features, heads.mask_pooler) if heads.mask_on else (None, None)
    pooled = dict.fromkeys(stages, boxes)
    if heads.mask_on and masks[1] is not None:
        pooled["mask"] = masks
    return pooled


def dense_post_processing(model: RetinaNet | FCOS) -> dict[str, Any]:
    """Describe how a dense detector turns the outputs of its head into boxes."""
    scores, weights, clamp = "sigmoid of class_logits", {}, None
    if isinstance(model, FCOS):
        scores = f"square root of {scores} times that of centerness"
    else:
        weights = {"head": model.box2box_transform.weights}
        clamp = model.box2box_transform.scale_clamp
    detections = Decoding(
        scores,
        model.test_topk_candidates,
        weights,
        clamp,
        0.0,
        model.test_score_thresh,
        model.test_nms_thresh,
        model.max_detections_per_image,
    )
    anchors = model.anchor_generator
    return post_processing(
        model.head_in_features, list(anchors.cell_anchors), anchors.offset, detections=detections
    )


def _pooling(levels: list[str], pooler: ROIPooler) -> Pooling:
    align = pooler.level_poolers[0]
    return Pooling(
        levels,
        type(align).__name__,
        getattr(align, "sampling_ratio", None),
        getattr(align, "aligned", None),
        pooler.canonical_box_size,
        pooler.canonical_level,
    )
