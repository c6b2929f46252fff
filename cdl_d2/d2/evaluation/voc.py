"""Detectron2's evaluator of PASCAL VOC, for splits that lack a class."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.evaluation.pascal_voc_evaluation import parse_rec


class VocEvaluator(PascalVOCDetectionEvaluator):
    """PascalVOCDetectionEvaluator that averages over the classes with an object in the split.

    Detectron2's average is NaN if a class has none. Objects that are marked as difficult are
    ignored.
    """

    def evaluate(self) -> OrderedDict | None:
        names, predictions = self._class_names, self._predictions
        present = self._classes_with_objects()
        labels = [label for label, name in enumerate(names) if name in present]
        self._class_names = [names[label] for label in labels]
        self._predictions = {new: predictions[old] for new, old in enumerate(labels)}
        try:
            return super().evaluate()
        finally:
            self._class_names, self._predictions = names, predictions

    def _classes_with_objects(self) -> set[str]:
        ids = Path(self._image_set_path).read_text(encoding="utf-8").split()
        files = (self._anno_file_template.format(image_id) for image_id in ids)
        return {o["name"] for file in files for o in parse_rec(file) if not o["difficult"]}
