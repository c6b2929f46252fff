"""COCO's average precision, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

AVERAGE_PRECISIONS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


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
    """AP, AP50, AP75, APs, APm and APl in percent; NaN where there is no object.

    Args:
        found: entries of a COCO results file.
        task: `bbox` or `segm`.
        image_ids: the images that count; default all.
    """
    if not found:
        return dict.fromkeys(AVERAGE_PRECISIONS, 0.0)
    if task == "segm":  # an area is that of the mask, not of the box
        found = [{k: v for k, v in entry.items() if k != "bbox"} for entry in found]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(coco, coco.loadRes(found), task)
        if image_ids is not None:
            evaluator.params.imgIds = sorted(image_ids)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    values = (100 * value if value >= 0 else float("nan") for value in evaluator.stats[:6])
    return {name: float(value) for name, value in zip(AVERAGE_PRECISIONS, values, strict=True)}
