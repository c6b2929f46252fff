"""How often answers about yes-or-no attributes are right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cdl_d2.errors import CdlError


class AttributeCounts:
    """Counts right answers about K attributes of images.

    Attributes:
        images, right: 2 x K, of images and of right answers, of no and of yes.
    """

    def __init__(self, count: int):
        self.images, self.right = np.zeros((2, 2, count), dtype=int)

    def add(self, truth: np.ndarray, answers: np.ndarray) -> None:
        """Of one image, K booleans each."""
        right = answers == truth
        for answer in (0, 1):
            self.images[answer] += truth == answer
            self.right[answer] += right & (truth == answer)

    def merge(self, counts: AttributeCounts) -> None:
        """Add the images of other counts."""
        self.images += counts.images
        self.right += counts.right

    def accuracies(self, names: Sequence[str]) -> dict[str, float]:
        """In percent:

        accuracy: the share of right answers, mean over attributes.
        majority: what always giving an attribute's commoner answer in these images would reach,
            which accuracy must exceed.
        balanced_accuracy: the mean of the shares of right answers among images with and without an
            attribute, mean over the attributes that have both; NaN if none has.
        left_out: how many attributes have not.
        accuracy-NAME: of each attribute.

        Raises:
            CdlError: if there was no image.
        """
        images, right = self.images, self.right
        total = images.sum(0)
        if not total.any():
            raise CdlError("no image to evaluate attributes on")
        accuracy, both = right.sum(0) / total, images.all(0)
        rates = right[:, both] / images[:, both]
        shares = {
            "accuracy": accuracy.mean(),
            "balanced_accuracy": rates.mean() if both.any() else np.nan,
            "majority": (images.max(0) / total).mean(),
            **{f"accuracy-{n}": a for n, a in zip(names, accuracy, strict=True)},
        }
        found = {name: 100 * float(share) for name, share in shares.items()}
        return found | {"left_out": int((~both).sum())}
