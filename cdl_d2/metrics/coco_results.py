"""Detections as records of a COCO results file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask

PIXEL_CENTRE = 0.5  # of the first pixel; COCO's keypoints call it 0


def detections_to_coco(
    boxes: torch.Tensor,
    labels: torch.Tensor,
    scores: torch.Tensor,
    image_id: int,
    category_ids: Sequence[int],
    masks: torch.Tensor | None = None,
    keypoints: torch.Tensor | None = None,
) -> list[dict[str, Any]]:
    """Return the D detections of an image as records of a COCO results file.

    Args:
        boxes: D x 4: left, top, right and bottom in pixels.
        labels: D, from 0.
        scores: D.
        image_id: number of the image.
        category_ids: numbers of the classes.
        masks: D x H x W booleans; they become RLE.
        keypoints: D x P x 3: x and y in pixels and a score; COCO's coordinates are half a pixel
            less.
    """
    records = []
    for i, (left, top, right, bottom) in enumerate(boxes.tolist()):
        record = {
            "image_id": image_id,
            "category_id": category_ids[int(labels[i])],
            "bbox": [left, top, right - left, bottom - top],
            "score": float(scores[i]),
        }
        if masks is not None:
            record["segmentation"] = encode_mask(masks[i].cpu().numpy())
        if keypoints is not None:
            shift = keypoints.new_tensor([PIXEL_CENTRE, PIXEL_CENTRE, 0])
            record["keypoints"] = (keypoints[i] - shift).flatten().tolist()
        records.append(record)
    return records


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Return the RLE of a mask, H x W, for JSON."""
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}
