"""Export of torchvision's R-CNN: its parts that are functions of tensors."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models.detection.image_list import ImageList

from cdl_d2.export.detector import detector_graph, fit_to_batch
from cdl_d2.export.graphs import (
    Graph,
    InputGrid,
    ModelGraphs,
    check_one_codec,
    level_graph,
    on_cpu,
    region_graph,
)
from cdl_d2.nn.bridge.input_adapter import announce_images
from cdl_d2.tv.backbone import STRIDES
from cdl_d2.tv.compressed_mask_rcnn import DIVISIBILITY, CompressedMaskRCNN

# Names of pyramid levels, p2 ..., by torchvision's names.
LEVELS = {name: f"p{stride.bit_length() - 1}" for name, stride in STRIDES.items()}
NOT_IN_THE_PARTS = [
    "encoding images and reading bitstreams; padding",
    "anchors, proposals from them and their NMS",
    "pooling of regions from the pyramid; boxes from deltas, and their NMS",
]
MASKS_NOT_IN_THE_PARTS = "a sigmoid of the detected class's mask, and its place in the image"


@torch.no_grad()
def detector_graphs(
    detector: CompressedMaskRCNN, size: tuple[int, int] | None = None
) -> ModelGraphs:
    """Return the parts `backbone`, `rpn`, `box` and, of a Mask R-CNN, `mask`, and `detector`.

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
        "not_in_the_parts": NOT_IN_THE_PARTS + [MASKS_NOT_IN_THE_PARTS] * len(masks),
    }
    whole = detector_graph(_Detector(detector), grid, detector.normalize, detector.has_masks)
    return ModelGraphs(graphs, card, size, whole=(whole,))


class _Values(nn.Module):
    """A backbone that returns its levels as a tuple."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.backbone(x).values())


class _Detector(nn.Module):
    """Detector of the objects in one image."""

    def __init__(self, detector: CompressedMaskRCNN):
        super().__init__()
        self.detector = detector

    def forward(self, inputs: torch.Tensor, image_size: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return boxes, scores, classes and, of a Mask R-CNN, masks."""
        coded_input = self.detector.coded_input
        positions = DIVISIBILITY // coded_input.stride
        if coded_input.margin:
            announce_images(self.detector, inputs, [tuple(image_size)])
        inputs = fit_to_batch(inputs, image_size, positions, coded_input)
        pixels = inputs.new_zeros((1, 1, *coded_input.padded_size(inputs)))
        images = ImageList(pixels, [tuple(image_size)])
        pyramid = self.detector.backbone(inputs)
        proposals, _ = self.detector.rpn(images, pyramid)
        (objects,), _ = self.detector.roi_heads(pyramid, proposals, images.image_sizes)
        outputs = objects["boxes"], objects["scores"], objects["labels"] - 1
        return (*outputs, objects["masks"][:, 0]) if "masks" in objects else outputs
