"""Intersection over union of label maps."""

from __future__ import annotations

import numpy as np

from cdl_d2.errors import CdlError


class PixelConfusion:
    """Counts of the pixels of each true and predicted class, of K classes.

    Attributes:
        matrix: K x K numbers of pixels; rows are true classes, columns predicted ones.
        ignored_label: label of pixels that do not count.
    """

    def __init__(self, num_classes: int, ignored_label: int = 255):
        self.matrix = np.zeros((num_classes, num_classes), dtype=np.int64)
        self.ignored_label = ignored_label

    def add(self, ground_truth: np.ndarray, labels: np.ndarray) -> None:
        """Add an image: true and predicted labels, H x W each.

        Raises:
            CdlError: for a true label that is neither a class nor ignored.
        """
        count, valid = len(self.matrix), ground_truth != self.ignored_label
        true, predicted = ground_truth[valid].astype(np.int64), labels[valid]
        if (true >= count).any():
            raise CdlError(
                f"label {true.max()} is neither one of {count} classes nor the label to ignore, "
                f"{self.ignored_label}"
            )
        pairs = np.bincount(count * true + predicted, minlength=count**2)
        self.matrix += pairs.reshape(count, count)

    def mean_iou(self) -> float:
        """Return the mean IoU in percent, over the classes that occur in the ground truth.

        Raises:
            CdlError: if no pixel counts.
        """
        true, predicted, right = self.matrix.sum(1), self.matrix.sum(0), np.diag(self.matrix)
        present = true > 0
        if not present.any():
            raise CdlError("the ground truth ignores every pixel of the images")
        iou = right[present] / (true + predicted - right)[present]
        return float(100 * np.mean(iou))
