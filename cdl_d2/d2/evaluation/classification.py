"""Evaluator of image classifiers, and the picture of their confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cdl_d2.d2.evaluation.counting import CountingEvaluator
from cdl_d2.files import write_atomically
from cdl_d2.metrics.classification import ClassificationCounts


class ClassificationEvaluator(CountingEvaluator[ClassificationCounts]):
    """Accuracy of a classifier, `classification` in the results: those of ClassificationCounts.

    Writes `confusion_matrix.png` with a row per true class.

    Args:
        classes: names, in the order of the labels.
        folder: where the picture is written.
    """

    def __init__(self, classes: list[str], folder: str | Path):
        self._classes, self._folder = classes, Path(folder)
        super().__init__(partial(ClassificationCounts, len(classes)))

    def add(self, counts: ClassificationCounts, sample: Mapping, output: Mapping[str, Any]) -> None:
        counts.add(output["scores"].cpu(), sample["label"])

    def results(self, counts: ClassificationCounts) -> dict[str, dict[str, float]]:
        results = counts.results(self._classes)
        self._folder.mkdir(parents=True, exist_ok=True)
        with write_atomically(self._folder / "confusion_matrix.png") as temporary:
            figure = draw_confusion(counts.confusion, self._classes)
            figure.savefig(temporary, format="png", dpi=100)
        return {"classification": results}


def draw_confusion(confusion: np.ndarray, classes: list[str]) -> Figure:
    """Draw a K x K confusion matrix, rows true and columns predicted, as shares of each row."""
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    count = len(classes)
    side = float(np.clip(0.6 * count, 5, 20))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axis, label="share of the true class")
    axis.set(xlabel="predicted", ylabel="true")
    if count <= 50:  # more names would not be legible
        axis.set_xticks(range(count), classes, rotation=90)
        axis.set_yticks(range(count), classes)
    if count <= 15:
        for row, column in np.ndindex(*confusion.shape):
            dark = shares[row, column] > 0.5
            text = {"ha": "center", "va": "center", "color": "white" if dark else "black"}
            axis.text(column, row, confusion[row, column], **text)
    return figure
