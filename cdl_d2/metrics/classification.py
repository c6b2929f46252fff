"""Accuracy and log loss of image classifiers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from cdl_d2.errors import CdlError


class ClassificationCounts:
    """Counts of the images of each true and predicted class, of K classes.

    Attributes:
        confusion: K x K numbers of images; rows are true classes, columns predicted ones.
    """

    def __init__(self, num_classes: int):
        self.confusion = np.zeros((num_classes, num_classes), dtype=int)
        self._top5, self._loss = 0, 0.0

    def add(self, probabilities: torch.Tensor | Sequence[float], label: int) -> None:
        """Add an image with K probabilities and its true class, from 0."""
        probabilities = torch.as_tensor(probabilities)
        best = probabilities.argsort(descending=True, stable=True)[:5].tolist()
        self.confusion[label, best[0]] += 1
        self._top5 += label in best
        probability = probabilities[label].double().clamp(min=torch.finfo(torch.float32).tiny)
        self._loss -= float(probability.log())

    def merge(self, counts: ClassificationCounts) -> None:
        """Add the images of other counts."""
        self.confusion += counts.confusion
        self._top5 += counts._top5
        self._loss += counts._loss

    def results(self, names: Sequence[str]) -> dict[str, float]:
        """Return `top1`, `top5`, `top1-NAME` of each class that has images, and `loss`.

        Accuracies are in percent; the loss is the mean cross entropy in nats.

        Raises:
            CdlError: if there was no image.
        """
        total, images = self.confusion.sum(), self.confusion.sum(1)
        if not total:
            raise CdlError("no image to evaluate a classifier on")
        right = np.diag(self.confusion)
        results = {"top1": 100 * right.sum() / total, "top5": 100 * self._top5 / total}
        for index in images.nonzero()[0]:
            results[f"top1-{names[index]}"] = 100 * right[index] / images[index]
        results["loss"] = self._loss / total
        return {name: float(value) for name, value in results.items()}
