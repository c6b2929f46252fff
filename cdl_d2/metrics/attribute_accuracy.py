"""Accuracy of binary attributes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cdl_d2.errors import CdlError


class AttributeCounts:
    """Counts of images and of correct predictions for K binary attributes.

    Attributes:
        images, correct: 2 x K numbers of images and correct predictions, for true values 0 and 1.
    """

    def __init__(self, count: int):
        self.images, self.correct = np.zeros((2, 2, count), dtype=int)

    def add(self, ground_truth: np.ndarray, predictions: np.ndarray) -> None:
        """Add an image: K true and predicted booleans."""
        for value in (0, 1):
            self.images[value] += ground_truth == value
            self.correct[value] += (predictions == value) & (ground_truth == value)

    def merge(self, counts: AttributeCounts) -> None:
        """Add the images of other counts."""
        self.images += counts.images
        self.correct += counts.correct

    def accuracies(self, names: Sequence[str]) -> dict[str, float]:
        """Return accuracies in percent.

        Args:
            names: names of the attributes.

        Returns:
            accuracy: mean over attributes;
            majority: accuracy of always predicting an attribute's more frequent value, the
                baseline of `accuracy`;
            balanced_accuracy: mean accuracy of images with and without an attribute, mean over
                attributes that have both; NaN if none has;
            left_out: number of attributes that lack one of both;
            accuracy-NAME: accuracy of each attribute.

        Raises:
            CdlError: if there was no image.
        """
        images, correct = self.images, self.correct
        total = images.sum(0)
        if not total.any():
            raise CdlError("no image to evaluate attributes on")
        accuracy, both = correct.sum(0) / total, images.all(0)
        rates = correct[:, both] / images[:, both]
        shares = {
            "accuracy": accuracy.mean(),
            "balanced_accuracy": rates.mean() if both.any() else np.nan,
            "majority": (images.max(0) / total).mean(),
            **{f"accuracy-{n}": a for n, a in zip(names, accuracy, strict=True)},
        }
        percentages = {name: 100 * float(share) for name, share in shares.items()}
        return percentages | {"left_out": int((~both).sum())}
