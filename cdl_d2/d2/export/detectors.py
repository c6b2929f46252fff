"""Graphs of detectors: the pyramid, and the heads of R-CNNs, RetinaNet and FCOS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import FCOS, GeneralizedRCNN, RetinaNet
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    MaskRCNNConvUpsampleHead,
    Res5ROIHeads,
    StandardROIHeads,
)
from torch import nn

from cdl_d2.d2.export.backbone import Backbone, Size, pixel_normalization
from cdl_d2.d2.export.whole_detector import build_detector_graph
from cdl_d2.errors import CdlError
from cdl_d2.export.graphs import Graph, InputGrid, ModelGraphs, level_graph, region_graph
from cdl_d2.nn.input.coded_input import CodedInput

Levels = Mapping[str, torch.Tensor]


def rcnn_graphs(
    model: GeneralizedRCNN, coded_input: CodedInput, cfg: CfgNode, size: Size | None
) -> ModelGraphs:
    """Return `backbone`, `rpn`, `box` (or `box_1`, ... of a cascade) and `mask` of an R-CNN.

    Raises:
        CdlError: for RoI or mask heads of another kind.
    """
    grid, backbone, levels, card = _pyramid(model, coded_input, size)
    rpn, heads = model.proposal_generator, model.roi_heads
    rpn_levels = {name: levels[name] for name in rpn.in_features}
    outputs = ("objectness", "deltas")
    graphs = [backbone, level_graph("rpn", rpn.rpn_head, rpn_levels, outputs, size is not None)]
    in_python = ["anchors, proposals from them and their NMS"]
    graphs += _box_graphs(heads, levels)
    if isinstance(heads, CascadeROIHeads):
        in_python.append("the loop over the cascade's stages, and the mean of their scores")
    in_python.append("pooling of regions from the pyramid; boxes from deltas, and their NMS")
    if getattr(heads, "mask_on", False):
        graphs.append(_mask_graph(heads, levels))
        in_python.append("a sigmoid of the detected class's mask, and its place in the image")
    missing = {}
    if getattr(heads, "keypoint_on", False):
        missing["keypoints"] = "their heatmaps are decoded at the size of each object, in a loop"
    card |= {"background": "the last of class_logits", "in_python": in_python}
    whole = (build_detector_graph(model, grid),)
    return ModelGraphs(tuple(graphs), card, size, whole=whole, not_exported=missing)


def dense_detector_graphs(
    model: RetinaNet | FCOS, coded_input: CodedInput, cfg: CfgNode, size: Size | None
) -> ModelGraphs:
    """Return `backbone` and `head` of a RetinaNet or FCOS; raise CdlError for another model."""
    if not isinstance(model, (RetinaNet, FCOS)):
        raise CdlError(f"a {type(model).__name__} cannot be exported: it is no RetinaNet or FCOS")
    grid, backbone, levels, card = _pyramid(model, coded_input, size)
    head_levels = {name: levels[name] for name in model.head_in_features}
    outputs = ("class_logits", "box_deltas", *(("centerness",) if isinstance(model, FCOS) else ()))
    head = level_graph("head", model.head, head_levels, outputs, size is not None)
    card["in_python"] = ["anchors, boxes from deltas, and their NMS"]
    return ModelGraphs((backbone, head), card, size, whole=(build_detector_graph(model, grid),))


def _pyramid(
    model: nn.Module, coded_input: CodedInput, size: Size | None
) -> tuple[InputGrid, Graph, Levels, dict[str, Any]]:
    """Return the input, the backbone's graph, an example of its outputs by level, and the card."""
    strides = {k: shape.stride for k, shape in model.backbone.output_shape().items()}
    coarsest = max(strides.values())
    multiple = max(model.backbone.size_divisibility, coded_input.stride)
    grid = InputGrid(coded_input, multiple, (2 * coarsest, 3 * coarsest), size)
    network = Backbone(model.backbone, getattr(model, "selection", None))
    graph = Graph("backbone", network, {grid.name: grid.shape}, tuple(strides), grid.sizes)
    levels = dict(zip(strides, graph.run(graph.draw()), strict=True))
    card = grid.card(*pixel_normalization(model)) | {"strides": strides}
    return grid, graph, levels, card


def _box_graphs(heads: nn.Module, levels: Levels) -> list[Graph]:
    """Return the graph of the box head, or one per stage of a cascade."""
    if isinstance(heads, Res5ROIHeads):
        name, side = heads.in_features[0], heads.pooler.output_size[0]
        boxes = {"box": nn.Sequential(heads.res5, _Mean(), heads.box_predictor)}
    elif isinstance(heads, StandardROIHeads):
        name, side = heads.box_in_features[0], heads.box_pooler.output_size[0]
        if isinstance(heads, CascadeROIHeads):
            stages = zip(heads.box_head, heads.box_predictor, strict=True)
            boxes = {f"box_{i}": nn.Sequential(*stage) for i, stage in enumerate(stages, 1)}
        else:
            boxes = {"box": nn.Sequential(heads.box_head, heads.box_predictor)}
    else:
        raise CdlError(f"RoI heads of kind {type(heads).__name__} cannot be exported")
    channels, outputs = levels[name].shape[1], ("class_logits", "box_deltas")
    return [region_graph(key, box, channels, side, outputs) for key, box in boxes.items()]


def _mask_graph(heads: nn.Module, levels: Levels) -> Graph:
    layers = heads.mask_head
    if not isinstance(layers, MaskRCNNConvUpsampleHead):
        raise CdlError(f"a mask head {type(layers).__name__} cannot be exported")
    if isinstance(heads, Res5ROIHeads):
        name, pooler, layers = heads.in_features[0], heads.pooler, [heads.res5, *layers]
    else:
        name, pooler = heads.mask_in_features[0], heads.mask_pooler
    if pooler is None:
        raise CdlError("a mask head without a pooler cannot be exported")
    channels, side = levels[name].shape[1], pooler.output_size[0]
    return region_graph("mask", nn.Sequential(*layers), channels, side, ("mask_logits",))


class _Mean(nn.Module):
    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        return feature.mean(dim=(2, 3))
