"""A teacher's confident detections, as labels of images that have none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from pycocotools import mask as coco_mask
from tqdm import tqdm

from cdl_d2.codec.io.image_files import read_image
from cdl_d2.d2.applications.prediction import class_names_of
from cdl_d2.d2.applications.trained import evaluation_mapper_of
from cdl_d2.d2.checkpoint import load_all_weights
from cdl_d2.d2.config_files import read_config
from cdl_d2.d2.modeling.building import build_model
from cdl_d2.errors import CdlError


@torch.no_grad()
def detect_objects(
    cfg: CfgNode, folder: Path, files: Sequence[Path], threshold: float
) -> dict[str, Any]:
    """Return what the teacher of a config detects, as COCO-format annotations.

    Args:
        cfg: names an R-CNN as its teacher, and the device.
        folder: of the images.
        files: the images, anywhere in it.
        threshold: lowest score of a detection.

    Raises:
        CdlError: if nothing is detected.
    """
    teacher_cfg = read_config(cfg.MODEL.TEACHER.CONFIG_FILE, ["MODEL.DEVICE", cfg.MODEL.DEVICE])
    teacher = build_model(teacher_cfg).eval()
    load_all_weights(teacher, cfg.MODEL.TEACHER.WEIGHTS)
    read = image_reader(teacher_cfg)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for path in tqdm(files, unit="image"):
        item, name = read(path), path.relative_to(folder).as_posix()
        image = {"id": len(images), "file_name": name, **{k: item[k] for k in ("height", "width")}}
        images.append(image)
        detections = teacher([item])[0]["instances"].to("cpu")
        for entry in _annotations(detections[detections.scores >= threshold]):
            annotations.append({"id": len(annotations) + 1, "image_id": image["id"], **entry})
    if not annotations:
        lowest = teacher_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST
        raise CdlError(
            f"the teacher finds nothing above {max(threshold, lowest)} in {folder}: lower "
            f"--threshold {threshold} and MODEL.ROI_HEADS.SCORE_THRESH_TEST {lowest} of its "
            "config, or give images of what it knows"
        )
    categories = [{"id": i, "name": name} for i, name in enumerate(class_names_of(cfg), 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _annotations(detections: Instances) -> list[dict[str, Any]]:
    """Return category, box and, where there is one, mask of each detection."""
    boxes, labels = detections.pred_boxes.tensor.tolist(), detections.pred_classes.tolist()
    entries = [
        {"category_id": label + 1, "bbox": [left, top, right - left, bottom - top]}
        for label, (left, top, right, bottom) in zip(labels, boxes, strict=True)
    ]
    if detections.has("pred_masks"):
        for entry, mask in zip(entries, detections.pred_masks.numpy(), strict=True):
            rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
            entry["segmentation"] = rle | {"counts": rle["counts"].decode()}
    return entries


def image_reader(cfg: CfgNode) -> Callable[[Path], dict[str, Any]]:
    """Return the function from an image's file to an item of the model of a config, resized or
    cropped as in evaluation."""
    mapper = evaluation_mapper_of(cfg)

    def read(path: Path) -> dict[str, Any]:
        height, width = read_image(path).shape[1:]
        return mapper({"file_name": str(path), "height": height, "width": width})

    return read
