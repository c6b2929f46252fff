"""Export of torchvision's R-CNN: its parts that are functions of tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from cdl_d2.export.graphs import (
    Graph,
    InputGrid,
    ModelGraphs,
    check_one_codec,
    level_graph,
    on_cpu,
    region_graph,
)
from cdl_d2.export.post_processing import Decoding, Pooling, post_processing
from cdl_d2.tv.backbone import STRIDES
from cdl_d2.tv.compressed_mask_rcnn import DIVISIBILITY, CompressedMaskRCNN

# Names of pyramid levels, p2 ..., by torchvision's names.
LEVELS = {name: f"p{stride.bit_length() - 1}" for name, stride in STRIDES.items()}
SMALLEST_SIDE = 0.01  # pixels of a detection, in torchvision's RoIHeads
NOT_IN_THE_GRAPHS = [
    "encoding images and reading bitstreams; padding",
    "anchors, proposals from them and their NMS",
    "pooling of regions from the pyramid; boxes from deltas, and their NMS",
]
MASKS_NOT_IN_THE_GRAPHS = "a sigmoid of the detected class's mask, and its place in the image"


@torch.no_grad()
def detector_graphs(
    detector: CompressedMaskRCNN, size: tuple[int, int] | None = None
) -> ModelGraphs:
    """Return the graphs `backbone`, `rpn`, `box` and, of a Mask R-CNN, `mask`.

    Args:
        detector: in eval mode; copied to the CPU from another device.
        size: (H, W) in pixels of all images; None for any size.

    Raises:
        CdlError: if the detector translates latents of several codecs.
    """
    check_one_codec(detector)
    detector = on_cpu(detector)
    coarsest = max(STRIDES.values())
    grid = InputGrid(detector.coded_input, DIVISIBILITY, (2 * coarsest, 3 * coarsest), size)
    shape = {grid.name: grid.shape}
    network = Graph("backbone", detector.backbone, shape, (), grid.sizes)
    features = detector.backbone(*network.draw())
    levels = {LEVELS[name]: feature for name, feature in features.items()}
    heads, transform = detector.roi_heads, detector.transform
    box = nn.Sequential(heads.box_head, heads.box_predictor)
    channels = detector.backbone.out_channels
    masks = ()
    if detector.has_masks:
        mask = nn.Sequential(heads.mask_head, heads.mask_predictor)
        side = heads.mask_roi_pool.output_size[0]
        masks = (region_graph("mask", mask, channels, side, ("mask_logits",)),)
    graphs = (
        Graph("backbone", _Values(detector.backbone), shape, tuple(levels), grid.sizes),
        level_graph("rpn", detector.rpn.head, levels, ("objectness", "deltas"), size is not None),
        region_graph(
            "box", box, channels, heads.box_roi_pool.output_size[0], ("class_logits", "box_deltas")
        ),
        *masks,
    )
    card = {
        "model": type(detector).__name__,
        "classes": heads.box_predictor.cls_score.out_features - 1,
        **grid.card(transform.image_mean, transform.image_std, largest=1),
        "strides": {LEVELS[name]: STRIDES[name] for name in features},
        "background": "the first of class_logits and mask_logits",
        **_post_processing(detector, list(levels)),
        "not_in_the_graphs": NOT_IN_THE_GRAPHS + [MASKS_NOT_IN_THE_GRAPHS] * len(masks),
    }
    return ModelGraphs(graphs, card, size)


def _post_processing(detector: CompressedMaskRCNN, levels: list[str]) -> dict[str, Any]:
    rpn, heads = detector.rpn, detector.roi_heads
    proposals = Decoding(
        "sigmoid of objectness",
        rpn.pre_nms_top_n(),
        {"rpn": rpn.box_coder.weights},
        rpn.box_coder.bbox_xform_clip,
        rpn.min_size,
        rpn.score_thresh,
        rpn.nms_thresh,
        rpn.post_nms_top_n(),
    )
    detections = Decoding(
        "softmax of class_logits",
        None,
        {"box": heads.box_coder.weights},
        heads.box_coder.bbox_xform_clip,
        SMALLEST_SIDE,
        heads.score_thresh,
        heads.nms_thresh,
        heads.detections_per_img,
    )
    poolers = {"box": heads.box_roi_pool, "mask": heads.mask_roi_pool}
    return post_processing(
        levels,
        rpn.anchor_generator.cell_anchors,
        0.0,
        proposals=proposals,
        pooling={name: _pooling(pooler) for name, pooler in poolers.items() if pooler},
        detections=detections,
    )


def _pooling(pooler: nn.Module) -> Pooling:
    return Pooling(
        [LEVELS[name] for name in pooler.featmap_names],
        "ROIAlign",
        pooler.sampling_ratio,
        False,
        pooler.canonical_scale,
        pooler.canonical_level,
    )


class _Values(nn.Module):
    """A backbone that returns its levels as a tuple."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.backbone(x).values())
