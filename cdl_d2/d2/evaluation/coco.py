"""Evaluator of COCO-format data sets."""

from __future__ import annotations

from typing import Any

from detectron2.evaluation import COCOEvaluator
from pycocotools.cocoeval import COCOeval

from cdl_d2.d2.data.coco_datasets import normalize_dataset
from cdl_d2.data.datasets.coco import has_masks
from cdl_d2.metrics.coco_precision import CocoIndex, average_precision


class CocoEvaluator(COCOEvaluator):
    """COCOEvaluator that computes the average precision by pycocotools alone.

    Masks and keypoints are evaluated if an object of the data set has them.

    Args:
        name: of the data set.
        folder: where results are written.

    Raises:
        FileNotFoundError, CdlError: if the annotations cannot be read.
    """

    def __init__(self, name: str, folder: str):
        normalize_dataset(name)
        super().__init__(name, output_dir=folder, use_fast_impl=False)
        self._coco_api = CocoIndex(self._coco_api.dataset)

    def _tasks_from_predictions(self, predictions: list[dict[str, Any]]) -> list[str]:
        content = self._coco_api.dataset
        missing = set() if has_masks(content) else {"segm"}
        if not any("keypoints" in annotation for annotation in content.get("annotations", ())):
            missing.add("keypoints")
        tasks = super()._tasks_from_predictions(predictions)
        return [task for task in tasks if task not in missing]

    def _derive_coco_results(
        self, coco_eval: COCOeval | None, iou_type: str, class_names: list[str] | None = None
    ) -> dict[str, float]:
        if coco_eval is None:  # no detections
            return average_precision(self._coco_api, [], iou_type)
        return super()._derive_coco_results(coco_eval, iou_type, class_names)
