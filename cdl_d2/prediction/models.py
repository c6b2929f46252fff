"""A trained model of either engine, ready to predict: from items to predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from cdl_d2.model_zoo.card import Card
from cdl_d2.nn.coded_input import CodedInput
from cdl_d2.prediction.results import Classification, Detections, Prediction, Segmentation

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from cdl_d2.tv import DetectorConfig


@dataclass(frozen=True)
class PredictionModel:
    """A network, and what must be known to show it an image and to read its output.

    Attributes:
        network: in eval mode; from a list of items to a list of its engine's outputs.
        task: `detection`, `segmentation` or `classification`.
        class_names: K.
        coded_input: what it looks at.
        resize: an image, 3 x H x W, uint8, RGB, as it is resized or cropped in evaluation.
        config: of its engine, Detectron2's or a DetectorConfig.
        card: of a model of the zoo.
    """

    network: nn.Module
    task: str
    class_names: tuple[str, ...]
    coded_input: CodedInput
    resize: Callable[[torch.Tensor], torch.Tensor]
    config: CfgNode | DetectorConfig
    card: Card | None = None

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    @torch.no_grad()
    def predict(self, items: Sequence[dict[str, Any]]) -> list[Prediction]:
        """Predictions for items of SourceReader; those of one size are looked at together."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, item in enumerate(items):
            size = item["image_size"] if "image_size" in item else item["image"].shape[1:]
            groups.setdefault(tuple(size), []).append(index)
        found: dict[int, Prediction] = {}
        for members in groups.values():
            outputs = self.network([items[i] for i in members])
            for i, output in zip(members, outputs, strict=True):
                found[i] = self._prediction(items[i], output)
        return [found[i] for i in range(len(items))]

    def _prediction(self, item: dict[str, Any], output: dict[str, Any]) -> Prediction:
        common: dict[str, Any] = {
            "image_size": (item["height"], item["width"]),
            "class_names": self.class_names,
        }
        if "bits" in output:
            height, width = output["image_size"]
            common["bits"] = float(output["bits"])
            common["bits_per_pixel"] = common["bits"] / (height * width)
        if self.task == "classification":
            return Classification(probabilities=output["scores"].cpu(), **common)
        if self.task == "segmentation":
            dtype = torch.uint8 if len(self.class_names) <= 256 else torch.int16
            return Segmentation(segmentation=output["sem_seg"].argmax(0).to(dtype).cpu(), **common)
        return Detections(**_objects(output), **common)


def _objects(output: dict[str, Any]) -> dict[str, torch.Tensor | None]:
    """Boxes, labels, scores and masks of what a detector of either engine gives, sorted."""
    if "instances" in output:  # Detectron2's
        found = output["instances"].to("cpu")
        masks = found.pred_masks if found.has("pred_masks") else None
        boxes, labels, scores = found.pred_boxes.tensor, found.pred_classes, found.scores
    else:  # torchvision's, whose labels begin with the background
        boxes, labels = output["boxes"].cpu(), output["labels"].cpu() - 1
        scores, masks = output["scores"].cpu(), output["masks"][:, 0].cpu() > 0.5
    order = scores.argsort(descending=True, stable=True)
    return {
        "boxes": boxes[order],
        "labels": labels[order],
        "scores": scores[order],
        "masks": None if masks is None else masks[order],
    }
