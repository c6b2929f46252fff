"""The whole graph of a Detectron2 detector, traced as Detectron2's own export traces it."""

from __future__ import annotations

from collections.abc import Mapping
from unittest import mock

import torch
from detectron2.export.torchscript_patch import patch_builtin_len
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import ImageList, Instances
from torch import nn

from cdl_d2.export.detector import detector_graph, fit_to_batch
from cdl_d2.export.graphs import InputGrid
from cdl_d2.export.whole_graphs import WholeGraph
from cdl_d2.nn.bridge.input_adapter import announce_images


def build_detector_graph(model: nn.Module, grid: InputGrid) -> WholeGraph:
    """Return the graph `detector` of an R-CNN, RetinaNet or FCOS."""

    def normalize(pixels: torch.Tensor) -> torch.Tensor:
        return (pixels - model.pixel_mean) / model.pixel_std

    with_masks = bool(getattr(getattr(model, "roi_heads", None), "mask_on", False))
    return detector_graph(_Detector(model, grid), grid, normalize, with_masks)


class _Detector(nn.Module):
    """Detector of the objects in one image; keypoints are left out."""

    def __init__(self, model: nn.Module, grid: InputGrid):
        super().__init__()
        self.model, self._coded_input = model, grid.coded_input
        square = model.backbone.padding_constraints.get("square_size", 0)
        self._positions = square // grid.coded_input.stride or grid.positions

    def forward(self, inputs: torch.Tensor, image_size: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return boxes, scores, classes and, of a Mask R-CNN, masks."""
        selection = getattr(self.model, "selection", None)
        if selection is not None:
            inputs = inputs * selection.chooser(inputs)
        if self._coded_input.margin:
            announce_images(self.model, inputs, [tuple(image_size)])
        inputs = fit_to_batch(inputs, image_size, self._positions, self._coded_input)
        images = ImageList(inputs, [image_size])
        with patch_builtin_len():
            objects = self._detect(images, self.model.backbone(inputs))
            objects.pred_boxes.clip(image_size)  # as Detectron2's post-processing does
            objects = objects[objects.pred_boxes.nonempty()]
        outputs = objects.pred_boxes.tensor, objects.scores, objects.pred_classes
        return (*outputs, objects.pred_masks[:, 0]) if objects.has("pred_masks") else outputs

    def _detect(self, images: ImageList, features: Mapping[str, torch.Tensor]) -> Instances:
        model = self.model
        if not isinstance(model, GeneralizedRCNN):
            levels = [features[name] for name in model.head_in_features]
            return model.forward_inference(images, levels, model.head(levels))[0]
        proposals, _ = model.proposal_generator(images, features, None)
        with mock.patch.object(model.roi_heads, "keypoint_on", False, create=True):
            return model.roi_heads(images, features, proposals, None)[0][0]
