"""Detectron2's evaluator of PASCAL VOC, for splits that lack a class."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.evaluation.pascal_voc_evaluation import parse_rec


class VocEvaluator(PascalVOCDetectionEvaluator):
    """As PascalVOCDetectionEvaluator; averages are over the classes that have an object in the
    split, as COCO's are, where Detectron2's would be NaN.

    Objects that are marked as difficult count neither for nor against a detector.
    """

    def evaluate(self) -> OrderedDict | None:
        """`bbox` with `AP`, `AP50` and `AP75`, in percent."""
        names, predictions = self._class_names, self._predictions
        found = self._classes_with_objects()
        there = [index for index, name in enumerate(names) if name in found]
        self._class_names = [names[index] for index in there]
        self._predictions = {new: predictions[old] for new, old in enumerate(there)}
        try:
            return super().evaluate()
        finally:
            self._class_names, self._predictions = names, predictions

    def _classes_with_objects(self) -> set[str]:
        ids = Path(self._image_set_path).read_text(encoding="utf-8").split()
        files = (self._anno_file_template.format(each) for each in ids)
        return {o["name"] for file in files for o in parse_rec(file) if not o["difficult"]}
