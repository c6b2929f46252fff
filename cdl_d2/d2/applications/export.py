"""Which parts of a Detectron2 model are functions of tensors, that can be exported."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import FCOS, GeneralizedRCNN, PanopticFPN, RetinaNet, SemanticSegmentor
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    MaskRCNNConvUpsampleHead,
    Res5ROIHeads,
    StandardROIHeads,
)
from torch import nn

from cdl_d2.codec import STRIDE
from cdl_d2.d2.applications.post_processing import dense_post_processing, rcnn_post_processing
from cdl_d2.d2.modeling.meta_arch.classifier import CompressedClassifier
from cdl_d2.d2.modeling.selected_channels import SelectedChannels
from cdl_d2.d2.tasks import class_count
from cdl_d2.errors import CdlError
from cdl_d2.export.graphs import (
    Axis,
    Graph,
    InputGrid,
    ModelGraphs,
    check_one_codec,
    level_graph,
    on_cpu,
    region_graph,
)
from cdl_d2.nn.backbones.rgb_model import pixel_statistics
from cdl_d2.nn.input.coded_input import CodedInput
from cdl_d2.nn.selection.channel_selection import ChannelGate

Size = tuple[int, int]
CODING = "encoding images and reading bitstreams; padding"
GATE = "choosing channels: multiply what `gate` gives of the unpadded latent with it, then pad"
SMALL_IMAGE = (64, 96)  # pixels: classifiers and segmentors are traced at such a size or larger


@torch.no_grad()
def model_graphs(model: nn.Module, cfg: CfgNode, size: Size | None = None) -> ModelGraphs:
    """`backbone`, and of a detector its heads.

    Args:
        model: in eval mode; one on another device is copied to the CPU.
        cfg: its config.
        size: (H, W) in pixels of the only images that the graphs will fit; None for any.

    Raises:
        CdlError: for a model of another kind, or whose heads are of another kind.
    """
    shown = getattr(model, "coded_input", None) or CodedInput("image", None, cfg.INPUT.FORMAT)
    check_one_codec(model)
    model = on_cpu(model)
    if isinstance(model, CompressedClassifier):
        graphs = _classifier(model, shown, cfg, size)
    elif isinstance(model, SemanticSegmentor):
        graphs = _segmentor(model, shown, size)
    elif isinstance(model, (RetinaNet, FCOS)):
        graphs = _dense_detector(model, shown, size)
    elif isinstance(model, GeneralizedRCNN) and not isinstance(model, PanopticFPN):
        graphs = _rcnn(model, shown, size)
    else:
        raise CdlError(
            f"a {type(model).__name__} cannot be exported: R-CNNs, RetinaNet, FCOS, segmentors and "
            "classifiers can"
        )
    head = {"model": type(model).__name__, "classes": class_count(cfg)}
    in_python = [CODING, *graphs.card.pop("in_python")]
    parts, selection = graphs.graphs, getattr(model, "selection", None)
    if selection is not None and isinstance(selection.chooser, ChannelGate):
        shape = (Axis("n"), selection.chooser.channels, Axis("h"), Axis("w"))
        sizes = {"n": 2, "h": 3, "w": 4}
        parts += (Graph("gate", selection.chooser, {"y_hat": shape}, ("choice",), sizes),)
        in_python.append(GATE)
    card = head | graphs.card | {"not_in_the_graphs": in_python}
    return ModelGraphs(parts, card, graphs.fixed_size, graphs.usual_size)


class Backbone(nn.Module):
    """A network behind a fixed selection of channels; the head of a segmentor may follow."""

    def __init__(
        self, network: nn.Module, selection: SelectedChannels | None, head: nn.Module | None = None
    ):
        super().__init__()
        chooser = None if selection is None else selection.chooser
        self.chooser = None if isinstance(chooser, ChannelGate) else chooser
        self.network, self.head = network, head

    def forward(self, shown: torch.Tensor, *scales: torch.Tensor) -> Any:
        """What the network gives; with a head, its logits before they are enlarged."""
        if self.chooser is not None:
            shown = shown * self.chooser(shown)
        features = self.network(shown, *scales)
        if self.head is None:
            return features
        if hasattr(self.head, "layers"):
            return self.head.layers(features)
        return self.head.predictor(self.head.aspp(features[self.head.in_features[0]]))


def _pyramid(model: nn.Module, shown: CodedInput, size: Size | None) -> tuple[Graph, dict, dict]:
    """The backbone of a detector, an example of what it gives, and the card."""
    strides = {k: shape.stride for k, shape in model.backbone.output_shape().items()}
    coarsest = max(strides.values())
    multiple = max(model.backbone.size_divisibility, shown.stride)
    grid = InputGrid(shown, multiple, (2 * coarsest, 3 * coarsest), size)
    network = Backbone(model.backbone, getattr(model, "selection", None))
    graph = Graph("backbone", network, {grid.name: grid.shape}, tuple(strides), grid.sizes)
    levels = dict(zip(strides, graph.run(graph.draw()), strict=True))
    return graph, levels, grid.card(*_statistics(model)) | {"strides": strides}


def _rcnn(model: GeneralizedRCNN, shown: CodedInput, size: Size | None) -> ModelGraphs:
    backbone, levels, card = _pyramid(model, shown, size)
    rpn, heads = model.proposal_generator, model.roi_heads
    seen = {name: levels[name] for name in rpn.in_features}
    graphs = [
        backbone,
        level_graph("rpn", rpn.rpn_head, seen, ("objectness", "deltas"), size is not None),
    ]
    in_python = ["anchors, proposals from them and their NMS"]
    names, boxes = ("class_logits", "box_deltas"), []
    if isinstance(heads, Res5ROIHeads):
        channels, side = levels[heads.in_features[0]].shape[1], heads.pooler.output_size[0]
        boxes = [("box", nn.Sequential(heads.res5, _Mean(), heads.box_predictor))]
        mask, mask_side, mask_channels = nn.Sequential(heads.res5), side, channels
    elif isinstance(heads, StandardROIHeads):
        channels = levels[heads.box_in_features[0]].shape[1]
        side, mask = heads.box_pooler.output_size[0], nn.Sequential()
        if heads.mask_on and heads.mask_pooler is not None:
            mask_side = heads.mask_pooler.output_size[0]
            mask_channels = levels[heads.mask_in_features[0]].shape[1]
        if isinstance(heads, CascadeROIHeads):
            stages = zip(heads.box_head, heads.box_predictor, strict=True)
            boxes = [(f"box_{i}", nn.Sequential(*stage)) for i, stage in enumerate(stages, 1)]
            in_python.append("the loop over the cascade's stages, and the mean of their scores")
        else:
            boxes = [("box", nn.Sequential(heads.box_head, heads.box_predictor))]
    else:
        raise CdlError(f"RoI heads of kind {type(heads).__name__} cannot be exported")
    graphs += [region_graph(name, box, channels, side, names) for name, box in boxes]
    in_python.append("pooling of regions from the pyramid; boxes from deltas, and their NMS")
    if getattr(heads, "mask_on", False):
        if not isinstance(heads.mask_head, MaskRCNNConvUpsampleHead):
            raise CdlError(f"a mask head {type(heads.mask_head).__name__} cannot be exported")
        mask.extend(list(heads.mask_head))
        graphs.append(region_graph("mask", mask, mask_channels, mask_side, ("mask_logits",)))
        in_python.append("a sigmoid of the detected class's mask, and its place in the image")
    if getattr(heads, "keypoint_on", False):
        in_python.append("the keypoint head, which is not exported")
    card |= {"background": "the last of class_logits"} | rcnn_post_processing(model)
    return ModelGraphs(tuple(graphs), card | {"in_python": in_python}, size)


def _dense_detector(model: nn.Module, shown: CodedInput, size: Size | None) -> ModelGraphs:
    backbone, levels, card = _pyramid(model, shown, size)
    seen = {name: levels[name] for name in model.head_in_features}
    kinds = ("class_logits", "box_deltas", *(("centerness",) if isinstance(model, FCOS) else ()))
    head = level_graph("head", model.head, seen, kinds, size is not None)
    in_python = ["anchors, boxes from deltas, and their NMS"]
    card |= dense_post_processing(model)
    return ModelGraphs((backbone, head), card | {"in_python": in_python}, size)


def _segmentor(model: SemanticSegmentor, shown: CodedInput, size: Size | None) -> ModelGraphs:
    multiple = max(model.backbone.size_divisibility, STRIDE if shown.codec else 1)
    coarsest = max(shape.stride for shape in model.backbone.output_shape().values())
    example = max(2 * coarsest, SMALL_IMAGE[0]), max(3 * coarsest, SMALL_IMAGE[1])
    grid = InputGrid(shown, multiple, example, size)
    head = model.sem_seg_head
    if not (hasattr(head, "layers") or hasattr(head, "aspp")):
        raise CdlError(f"a segmentation head {type(head).__name__} cannot be exported")
    network = Backbone(model.backbone, getattr(model, "selection", None), head)
    graph = Graph("backbone", network, {grid.name: grid.shape}, ("logits",), grid.sizes)
    card = grid.card(*_statistics(model)) | {"strides": {"logits": head.common_stride}}
    in_python = ["bilinear enlargement of logits by their stride; cropping; the likeliest class"]
    return ModelGraphs((graph,), card | {"in_python": in_python}, size)


def _classifier(
    model: CompressedClassifier, shown: CodedInput, cfg: CfgNode, size: Size | None
) -> ModelGraphs:
    usual, in_python = 2 * (cfg.INPUT.IMAGE_SIZE or SMALL_IMAGE[0],), ["a softmax of the logits"]
    if not shown.has_pixels and cfg.INPUT.AUGMENTATION == "latent":
        usual = 2 * (STRIDE * cfg.INPUT.LATENT_CROP,)
        in_python.append(
            f"resizing of latents to {cfg.INPUT.LATENT_RESIZE} cells a side, and a crop of the "
            f"central {cfg.INPUT.LATENT_CROP}"
        )
    elif cfg.INPUT.IMAGE_SIZE:
        in_python.append(f"resizing of images, and a crop of the central {usual[0]} pixels a side")
    if size is None and any(type(m).__name__.endswith("Same") for m in model.network.modules()):
        size = usual  # timm's layers that pad by their input's size: tracing would take minutes
    example = max(usual[0], SMALL_IMAGE[0])
    grid = InputGrid(shown, shown.stride, (example, example + 2 * STRIDE), size)
    inputs = {grid.name: grid.shape}
    if shown.with_scales:
        inputs["scales"] = grid.shape
    network = Backbone(model.network, model.selection)
    graph = Graph("backbone", network, inputs, ("logits",), grid.sizes)
    card = grid.card(*pixel_statistics(model.network), largest=1)
    if shown.with_scales:
        card["input"] += "; and `scales`, those that its entropy model predicts, padded alike"
    return ModelGraphs((graph,), card | {"in_python": in_python}, size, usual)


def _statistics(model: nn.Module) -> tuple[list[float], list[float]]:
    """Mean and deviation of the pixels of a detector or segmentor of Detectron2."""
    return model.pixel_mean.flatten().tolist(), model.pixel_std.flatten().tolist()


class _Mean(nn.Module):
    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        return feature.mean(dim=(2, 3))
