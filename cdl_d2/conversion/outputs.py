"""Outputs of networks of several libraries in one form, for their comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from cdl_d2.conversion.losses import named_tensors
from cdl_d2.errors import CdlError

# transformers' detectors whose last class is "no object"; the others score classes by a sigmoid.
NO_OBJECT = ("Detr", "Yolos", "TableTransformer")
# Detectron2's fields of Instances, and torchvision's keys.
INSTANCES = {"pred_boxes": "boxes", "pred_classes": "labels", "scores": "scores"}
MASK_THRESHOLD = 0.5


@dataclass(frozen=True)
class ImageOutput:
    """Output of a network for one image, on the CPU; None for a kind that it does not have.

    Attributes:
        logits: K class logits.
        label_map: H x W class numbers, of num_classes.
        num_classes: number of classes of the label map.
        detections: `boxes` D x 4 (left, top, right, bottom in pixels), `labels` D from 0, `scores`
            D in 0..1 and, if there are any, `masks` D x H x W booleans.
        features: all numbers of an output that is none of these.
    """

    logits: torch.Tensor | None = None
    label_map: torch.Tensor | None = None
    num_classes: int = 0
    detections: dict[str, torch.Tensor] | None = None
    features: torch.Tensor | None = None


def read_output(output: Any, size: tuple[int, int]) -> ImageOutput:
    """Return the output of a network for one image.

    Args:
        output: logits, 1 x K or 1 x K x h x w; a dict with `out` (torchvision's segmentation),
            `logits` and `pred_boxes` (transformers, DETR); a list with a dict of `boxes`, `labels`
            and `scores` (torchvision's detectors) or of `instances`, `sem_seg` and `scores`
            (Detectron2). Of several tensors, such as auxiliary ones, the first counts.
        size: (H, W) of the image in pixels.

    Raises:
        CdlError: if there is no tensor of floats in it.
    """
    if isinstance(output, list | tuple) and len(output):
        output = output[0]
    if isinstance(output, Mapping):
        fields = _read_fields(output, type(output).__name__, size)
        if fields:
            return ImageOutput(**fields)
    elif isinstance(output, torch.Tensor) and output.ndim in (2, 4):
        return ImageOutput(**_read_logits(output))
    tensors = [tensor.flatten() for _, tensor in named_tensors(output)]
    if not tensors:
        raise CdlError(
            f"an output of {type(output).__name__} cannot be compared: expected class logits, label"
            " maps, detections, or other tensors of floats"
        )
    return ImageOutput(features=torch.cat(tensors).float().cpu())


def _read_fields(output: Mapping[str, Any], kind: str, size: tuple[int, int]) -> dict[str, Any]:
    """Return the fields of ImageOutput that a dict has."""
    logits = output.get("logits", output.get("pred_logits", output.get("out")))
    if logits is not None and output.get("pred_boxes") is not None:
        has_no_object = kind.startswith(NO_OBJECT) or "pred_logits" in output
        return {
            "detections": _read_queries(logits[0], output["pred_boxes"][0], size, has_no_object)
        }
    if isinstance(logits, torch.Tensor) and logits.ndim in (2, 4):
        return _read_logits(logits)
    if "boxes" in output:
        return {"detections": _read_detections(output)}
    fields: dict[str, Any] = {}
    if "instances" in output and output["instances"].has("pred_boxes"):
        instances = output["instances"].get_fields()
        named = {name: instances[field] for field, name in INSTANCES.items()}
        named["boxes"] = named["boxes"].tensor
        masks = {"masks": instances["pred_masks"]} if "pred_masks" in instances else {}
        fields["detections"] = _read_detections(named | masks)
    if "sem_seg" in output:
        fields |= _read_logits(output["sem_seg"][None])
    elif "scores" in output and not fields:
        fields |= _read_logits(output["scores"].float().clamp(min=1e-12).log()[None])
    return fields


def _read_logits(logits: torch.Tensor) -> dict[str, Any]:
    """Return the fields for 1 x K or 1 x K x h x w; of one channel, its sign is the class."""
    logits = logits[0].detach().float().cpu()
    if len(logits) == 1:
        logits = torch.cat([torch.zeros_like(logits), logits])
    if logits.ndim == 1:
        return {"logits": logits}
    return {"label_map": logits.argmax(0), "num_classes": len(logits)}


def _read_detections(detections: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    names = ("boxes", "labels", "scores", "masks")
    values = {n: detections[n].detach().cpu() for n in names if n in detections}
    if "masks" in values:  # torchvision's are D x 1 x H x W probabilities
        masks = values["masks"]
        masks = masks[:, 0] if masks.ndim == 4 else masks
        values["masks"] = masks if masks.dtype == torch.bool else masks > MASK_THRESHOLD
    return values


def _read_queries(
    logits: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int], has_no_object: bool
) -> dict[str, torch.Tensor]:
    """Return the detections of Q queries: Q x K logits, Q x 4 centres and sizes in 0..1."""
    logits, boxes = logits.detach().float().cpu(), boxes.detach().float().cpu()
    probabilities = logits.softmax(1)[:, :-1] if has_no_object else logits.sigmoid()
    scores, labels = probabilities.max(1)
    centres, halves = boxes[:, :2], boxes[:, 2:] / 2
    corners = torch.cat([centres - halves, centres + halves], 1)
    height, width = size
    return {
        "boxes": corners * corners.new_tensor([width, height, width, height]),
        "labels": labels,
        "scores": scores,
    }
