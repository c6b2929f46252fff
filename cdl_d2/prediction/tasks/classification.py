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
    Results,
    Save,
    Task,
    Truth,
    ordered,
    table,
    unambiguous,
)


class ClassTruth(Truth):
    """A folder with a folder of images for each class; a source is one of them by its path or, if
    no other has it, by its name."""

    def __init__(self, path: Path, class_names: Sequence[str]):
        super().__init__(path, class_names)
        classes = find_classes(path)
        ours = ordered(classes, class_names, path)
        found = [(p, ours.index(classes[label])) for p, label in find_labelled_images(path)]
        self._labels = unambiguous((image.stem, label) for image, label in found)
        if path.is_dir():
            self._labels |= {stem_of(p.relative_to(path).as_posix()): label for p, label in found}

    def knows(self, name: str) -> bool:
        """See Truth."""
        return stem_of(name) in self._labels

    def results(self, entries: Sequence[Entry], names: Sequence[str], folder: Path) -> Results:
        """`top1`, in percent; raises as Truth says."""
        counts = ClassificationCounts(len(self.class_names))
        for entry in self.known(entries):
            counts.add(entry["probabilities"], self._labels[stem_of(entry["file_name"])])
        return {"classification": {"top1": counts.results(self.class_names)["top1"]}}


class ClassificationTask(Task):
    """Of classifiers; see Task."""

    name, answers, truth = "classification", "predictions.csv", ClassTruth
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
        return table(["file", "class", *names], rows)
