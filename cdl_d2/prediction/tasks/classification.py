"""A probability for every class of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cdl_d2.data.datasets.class_folders import find_classes, find_labelled_images
from cdl_d2.data.datasets.sources import stem_of
from cdl_d2.metrics.classification import ClassificationCounts
from cdl_d2.prediction.results import Classification
from cdl_d2.prediction.tasks.task import (
    Entry,
    GroundTruth,
    Results,
    Save,
    Task,
    order_classes,
    to_csv,
    unique_values,
)


class ClassGroundTruth(GroundTruth):
    """Folder with a sub-folder of images per class.

    A source is matched by its path or, where it is unique, by its name.
    """

    def __init__(self, path: Path, class_names: Sequence[str]):
        super().__init__(path, class_names)
        classes = find_classes(path)
        order = order_classes(classes, class_names, path)
        images = [(p, order.index(classes[label])) for p, label in find_labelled_images(path)]
        self._labels = unique_values((image.stem, label) for image, label in images)
        if path.is_dir():
            self._labels |= {stem_of(p.relative_to(path).as_posix()): label for p, label in images}

    def has(self, name: str) -> bool:
        return stem_of(name) in self._labels

    def results(self, entries: Sequence[Entry], names: Sequence[str], folder: Path) -> Results:
        """Return `classification` with `top1`, in percent."""
        counts = ClassificationCounts(len(self.class_names))
        for entry in self.annotated(entries):
            counts.add(entry["probabilities"], self._labels[stem_of(entry["file_name"])])
        return {"classification": {"top1": counts.results(self.class_names)["top1"]}}


class ClassificationTask(Task):
    """Of classifiers; see Task."""

    name, answers, ground_truth = "classification", "predictions.csv", ClassGroundTruth
    of_one_size = True

    def prediction(self, output: Mapping[str, Any], **common: Any) -> Classification:
        """From `scores`, K probabilities."""
        return Classification(probabilities=output["scores"].cpu(), **common)

    def entry(self, found: Classification, save: Save) -> Entry:
        """`probabilities`, K."""
        return {"probabilities": found.probabilities.tolist()}

    def text(self, entries: Sequence[Entry], categories: Sequence[Entry]) -> str:
        """A row for each image: the most probable class, and all probabilities."""
        names, rows = [each["name"] for each in categories], []
        for entry in entries:
            best = max(range(len(names)), key=entry["probabilities"].__getitem__)
            shares = [f"{value:.6f}" for value in entry["probabilities"]]
            rows.append((entry["file_name"], names[best], *shares))
        return to_csv(["file", "class", *names], rows)
