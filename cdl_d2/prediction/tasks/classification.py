"""Classification: a probability for every class of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cdl_d2.data.datasets.class_folders import find_classes, find_labelled_images
from cdl_d2.data.datasets.image_lists import image_key
from cdl_d2.metrics.classification import ClassificationCounts
from cdl_d2.prediction.results import Classification
from cdl_d2.prediction.tasks.task import (
    GroundTruth,
    Record,
    Results,
    Save,
    Task,
    order_classes,
    to_csv,
    unique_values,
)


class ClassGroundTruth(GroundTruth):
    """Folder with a sub-folder of images per class, for all classes of the model or some.

    A source is matched by its path or, where it is unique, by its name.
    """

    def __init__(self, path: Path, class_names: Sequence[str]):
        super().__init__(path, class_names)
        classes = find_classes(path)
        order = order_classes(classes, class_names, path, allow_some=True)
        images = [(p, order.index(classes[label])) for p, label in find_labelled_images(path)]
        self._count = len(images)
        self._labels = unique_values((image.stem, label) for image, label in images)
        if path.is_dir():
            self._labels |= {
                image_key(p.relative_to(path).as_posix()): label for p, label in images
            }

    def has(self, name: str) -> bool:
        return image_key(name) in self._labels

    def count(self) -> int:
        return self._count

    def results(self, records: Sequence[Record], names: Sequence[str], folder: Path) -> Results:
        """Return `classification` with `top1`, in percent."""
        counts = ClassificationCounts(len(self.class_names))
        for record in self.annotated(records):
            counts.add(record["probabilities"], self._labels[image_key(record["file_name"])])
        return {"classification": {"top1": counts.results(self.class_names)["top1"]}}


class ClassificationTask(Task):
    """Task of classifiers."""

    name, predictions_file, ground_truth = "classification", "predictions.csv", ClassGroundTruth
    of_one_size = True

    def prediction(self, output: Mapping[str, Any], **common: Any) -> Classification:
        """Read `scores`, K probabilities."""
        return Classification(probabilities=output["scores"].cpu(), **common)

    def to_record(self, prediction: Classification, save: Save) -> Record:
        """Return `probabilities`, K."""
        return {"probabilities": prediction.probabilities.tolist()}

    def format_predictions(self, records: Sequence[Record], categories: Sequence[Record]) -> str:
        """Return a row per image: the most probable class, and all probabilities."""
        names, rows = [category["name"] for category in categories], []
        for record in records:
            probabilities = record["probabilities"]
            best = max(range(len(names)), key=probabilities.__getitem__)
            rows.append((record["file_name"], names[best], *(f"{p:.6f}" for p in probabilities)))
        own = ["file", "class"]  # ImageNet has a class "file"
        return to_csv([*own, *(f"{n} (class)" if n in own else n for n in names)], rows)


TASK = ClassificationTask()
