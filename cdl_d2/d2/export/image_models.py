"""Graphs of models that predict the whole image: segmentation models and classifiers."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.modeling import SemanticSegmentor

from cdl_d2.codec import STRIDE
from cdl_d2.d2.export.backbone import SMALL_IMAGE, Backbone, Size, pixel_normalization
from cdl_d2.d2.modeling.meta_arch.classifier import CompressedClassifier
from cdl_d2.errors import CdlError
from cdl_d2.export.graphs import Graph, InputGrid, ModelGraphs
from cdl_d2.nn.backbones.rgb_model import pixel_statistics
from cdl_d2.nn.input.coded_input import CodedInput


def segmentor_graphs(
    model: SemanticSegmentor, coded_input: CodedInput, cfg: CfgNode, size: Size | None
) -> ModelGraphs:
    """Return `backbone`, from the input to logits before they are enlarged.

    Raises:
        CdlError: for a segmentation head of another kind.
    """
    multiple = max(model.backbone.size_divisibility, STRIDE if coded_input.codec else 1)
    coarsest = max(shape.stride for shape in model.backbone.output_shape().values())
    example = max(2 * coarsest, SMALL_IMAGE[0]), max(3 * coarsest, SMALL_IMAGE[1])
    grid = InputGrid(coded_input, multiple, example, size)
    head = model.sem_seg_head
    if not (hasattr(head, "layers") or hasattr(head, "aspp")):
        raise CdlError(f"a segmentation head {type(head).__name__} cannot be exported")
    network = Backbone(model.backbone, getattr(model, "selection", None), head)
    graph = Graph("backbone", network, {grid.name: grid.shape}, ("logits",), grid.sizes)
    card = grid.card(*pixel_normalization(model)) | {"strides": {"logits": head.common_stride}}
    in_python = ["bilinear enlargement of logits by their stride; cropping; the likeliest class"]
    return ModelGraphs((graph,), card | {"in_python": in_python}, size)


def classifier_graphs(
    model: CompressedClassifier, coded_input: CodedInput, cfg: CfgNode, size: Size | None
) -> ModelGraphs:
    """Return `backbone`, from the input, and perhaps the scales, to logits."""
    usual, in_python = 2 * (cfg.INPUT.IMAGE_SIZE or SMALL_IMAGE[0],), ["a softmax of the logits"]
    if not coded_input.has_pixels and cfg.INPUT.AUGMENTATION == "latent":
        usual = 2 * (STRIDE * cfg.INPUT.LATENT_CROP,)
        in_python.append(
            f"resizing of latents to {cfg.INPUT.LATENT_RESIZE} positions per side, and a crop of "
            f"the central {cfg.INPUT.LATENT_CROP}"
        )
    elif cfg.INPUT.IMAGE_SIZE:
        in_python.append(
            f"resizing of images, and a crop of the central {usual[0]} pixels per side"
        )
    if size is None and any(type(m).__name__.endswith("Same") for m in model.network.modules()):
        size = usual  # timm's layers that pad by their input's size: tracing would take minutes
    example = max(usual[0], SMALL_IMAGE[0])
    grid = InputGrid(coded_input, coded_input.stride, (example, example + 2 * STRIDE), size)
    inputs = {grid.name: grid.shape}
    card = grid.card(*pixel_statistics(model.network), largest=1)
    if coded_input.with_scales:
        inputs["scales"] = grid.shape
        card["input"] += "; and `scales`, those that its entropy model predicts, padded alike"
    network = Backbone(model.network, model.selection)
    graph = Graph("backbone", network, inputs, ("logits",), grid.sizes)
    return ModelGraphs((graph,), card | {"in_python": in_python}, size, usual)
