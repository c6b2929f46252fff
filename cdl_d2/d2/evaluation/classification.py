"""Top-1 and top-5 accuracy, accuracy of each class, and the confusion matrix as a picture."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from matplotlib.figure import Figure

from cdl_d2.errors import CdlError
from cdl_d2.files import write_atomically


class ClassificationEvaluator(DatasetEvaluator):
    """Accuracy of a CompressedClassifier, in percent, and its loss.

    Results: `classification` with `top1`, `top5`, `top1-<class>` of each class that has images, and
    `loss`, the mean cross entropy in nats, as `loss_cls` of training.
    `confusion_matrix.png` in the output folder has a row for each true class.

    Args:
        classes: names, in the order of the labels.
        output: folder for the picture.
    """

    def __init__(self, classes: list[str], output: str | Path):
        self._classes, self._output = classes, Path(output)

    def reset(self) -> None:
        count = len(self._classes)
        self._confusion = np.zeros((count, count), dtype=int)
        self._among_five, self._loss = 0, 0.0

    def process(self, inputs, outputs) -> None:
        for item, output in zip(inputs, outputs, strict=True):
            scores, label = output["scores"].cpu(), item["label"]
            best = scores.argsort(descending=True)[:5].tolist()
            self._confusion[label, best[0]] += 1
            self._among_five += label in best
            probability = scores[label].double().clamp(min=torch.finfo(torch.float32).tiny)
            self._loss -= float(probability.log())

    def evaluate(self) -> OrderedDict | None:
        parts = comm.gather((self._confusion, self._among_five, self._loss))
        if not comm.is_main_process():
            return None
        confusion, among_five, loss = (sum(each) for each in zip(*parts, strict=True))
        total, images = confusion.sum(), confusion.sum(1)
        if not total:
            raise CdlError("no image to evaluate a classifier on")
        results = {"top1": 100 * np.trace(confusion) / total, "top5": 100 * among_five / total}
        for i, name in enumerate(self._classes):
            if images[i]:
                results[f"top1-{name}"] = 100 * confusion[i, i] / images[i]
        results["loss"] = loss / total
        self._output.mkdir(parents=True, exist_ok=True)
        with write_atomically(self._output / "confusion_matrix.png") as temporary:
            confusion_figure(confusion, self._classes).savefig(temporary, format="png", dpi=100)
        return OrderedDict(classification={k: float(v) for k, v in results.items()})


def confusion_figure(confusion: np.ndarray, classes: list[str]) -> Figure:
    """A picture of a confusion matrix, rows true and columns predicted, as shares of a row."""
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    count = len(classes)
    side = float(np.clip(0.6 * count, 5, 20))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axis = figure.subplots()
    shown = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(shown, ax=axis, label="share of the true class")
    axis.set(xlabel="predicted", ylabel="true")
    if count <= 50:  # more names are not readable
        axis.set_xticks(range(count), classes, rotation=90)
        axis.set_yticks(range(count), classes)
    if count <= 15:
        for row, column in np.ndindex(*confusion.shape):
            dark = shares[row, column] > 0.5
            text = {"ha": "center", "va": "center", "color": "white" if dark else "black"}
            axis.text(column, row, confusion[row, column], **text)
    return figure
