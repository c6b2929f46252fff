"""COCO's average precision, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

AVERAGE_PRECISIONS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
OF_KEYPOINTS = ("AP", "AP50", "AP75", "APm", "APl")
PERSON_KEYPOINTS = 17  # whose tolerances pycocotools knows


def index_coco(content: dict[str, Any]) -> COCO:
    """pycocotools' index of annotations, as read_coco gives them."""
    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):  # it reports on every step
        coco.createIndex()
    return coco


def average_precision(
    coco: COCO,
    found: list[dict[str, Any]],
    task: str,
    image_ids: Collection[int] | None = None,
) -> dict[str, float]:
    """AP, AP50, AP75, APs (not of keypoints), APm and APl in percent; NaN where there is no object.

    Args:
        found: entries of a COCO results file.
        task: `bbox`, `segm`, or `keypoints`, which are a person's 17.
        image_ids: the images that count; default all.
    """
    names = OF_KEYPOINTS if task == "keypoints" else AVERAGE_PRECISIONS
    if not found:
        return dict.fromkeys(names, 0.0)
    if task == "segm":  # an area is that of the mask, not of the box
        found = [{k: v for k, v in entry.items() if k != "bbox"} for entry in found]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(coco, coco.loadRes(found), task)
        if image_ids is not None:
            evaluator.params.imgIds = sorted(image_ids)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    values = (100 * value if value >= 0 else float("nan") for value in evaluator.stats)
    return {name: float(value) for name, value in zip(names, values, strict=False)}
