"""COCO's average precision, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

AVERAGE_PRECISIONS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
KEYPOINT_PRECISIONS = ("AP", "AP50", "AP75", "APm", "APl")
PERSON_KEYPOINTS = 17  # the number for which pycocotools has tolerances


class CocoIndex(COCO):
    """pycocotools' index of annotations in the form of read_coco, for repeated evaluations.

    For masks, the box of an object without a mask is an ignored region: detections there count
    neither as right nor as wrong.
    """

    def __init__(self, content: dict[str, Any]):
        super().__init__()
        self.dataset = content
        with contextlib.redirect_stdout(io.StringIO()):  # it prints every step
            self.createIndex()

    def loadAnns(self, ids=()):
        """Return copies of annotations, since COCOeval modifies them."""
        return [dict(annotation) for annotation in super().loadAnns(ids)]

    def annToRLE(self, ann):
        """Return the mask of an annotation; COCOeval asks for it before it reads `iscrowd`."""
        if not ann.get("segmentation"):
            image, (x, y, width, height) = self.imgs[ann["image_id"]], ann["bbox"]
            left, right = (min(max(x, 0), image["width"]) for x in (x, x + width))
            top, bottom = (min(max(y, 0), image["height"]) for y in (y, y + height))
            ann["segmentation"] = [[left, top, right, top, right, bottom, left, bottom]]
            ann["iscrowd"] = 1
        return super().annToRLE(ann)

    def loadRes(self, resFile):
        """Return an index of results, also if there are none."""
        return (
            super().loadRes(resFile) if resFile else CocoIndex(self.dataset | {"annotations": []})
        )


def average_precision(
    coco: CocoIndex,
    results: list[dict[str, Any]],
    task: str,
    image_ids: Collection[int] | None = None,
) -> dict[str, float]:
    """Return AP, AP50, AP75, APs (not of keypoints), APm and APl in percent; NaN without objects.

    Args:
        coco: ground truth.
        results: records of a COCO results file.
        task: `bbox`, `segm`, or `keypoints` (a person's 17).
        image_ids: images to evaluate; default all.
    """
    names = KEYPOINT_PRECISIONS if task == "keypoints" else AVERAGE_PRECISIONS
    if task == "segm":  # the area is that of the mask, not of the box
        results = [{k: v for k, v in record.items() if k != "bbox"} for record in results]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(coco, coco.loadRes(results), task)
        if image_ids is not None:
            evaluator.params.imgIds = sorted(image_ids)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    values = (100 * value if value >= 0 else float("nan") for value in evaluator.stats)
    return {name: float(value) for name, value in zip(names, values, strict=False)}
