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


class CocoIndex(COCO):
    """pycocotools' index of annotations in normal form, for any number of evaluations.

    For masks, an object that has none is a region to be ignored, its box: what is found there
    counts neither for nor against a detector.
    """

    def __init__(self, content: dict[str, Any]):
        super().__init__()
        self.dataset = content
        with contextlib.redirect_stdout(io.StringIO()):  # it reports on every step
            self.createIndex()

    def loadAnns(self, ids=()):
        """Return copies of annotations: COCOeval writes into what it gets."""
        return [dict(annotation) for annotation in super().loadAnns(ids)]

    def annToRLE(self, ann):
        """Return the mask of an annotation; COCOeval asks for it before it looks at `iscrowd`."""
        if not ann.get("segmentation"):
            image, (x, y, width, height) = self.imgs[ann["image_id"]], ann["bbox"]
            left, right = (min(max(x, 0), image["width"]) for x in (x, x + width))
            top, bottom = (min(max(y, 0), image["height"]) for y in (y, y + height))
            ann["segmentation"] = [[left, top, right, top, right, bottom, left, bottom]]
            ann["iscrowd"] = 1
        return super().annToRLE(ann)

    def loadRes(self, resFile):
        """Return an index of results; pycocotools cannot load none."""
        return (
            super().loadRes(resFile) if resFile else index_coco({**self.dataset, "annotations": []})
        )


def index_coco(content: dict[str, Any]) -> CocoIndex:
    """Return pycocotools' index of annotations, as read_coco gives them."""
    return CocoIndex(content)


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
    if task == "segm":  # an area is that of the mask, not of the box
        found = [{k: v for k, v in entry.items() if k != "bbox"} for entry in found]
    with contextlib.redirect_stdout(io.StringIO()):
        # pycocotools cannot load a file without entries
        results = coco.loadRes(found) if found else index_coco({**coco.dataset, "annotations": []})
        evaluator = COCOeval(coco, results, task)
        if image_ids is not None:
            evaluator.params.imgIds = sorted(image_ids)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    values = (100 * value if value >= 0 else float("nan") for value in evaluator.stats)
    return {name: float(value) for name, value in zip(names, values, strict=False)}
