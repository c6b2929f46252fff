"""Accuracy of yes-or-no attributes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from cdl_d2.errors import CdlError


class AttributeEvaluator(DatasetEvaluator):
    """How often a model's answers about K attributes of an image are right, in percent.

    Items have `attributes`, K zeros and ones; outputs have `attributes`, K probabilities, of which
    those above 0.5 are a yes.

    Results: `attributes` with
        accuracy: the share of right answers, mean over attributes.
        majority: what always giving an attribute's commoner answer in the evaluated images would
            reach, which accuracy must exceed.
        balanced_accuracy: the mean of the shares of right answers among images with and without an
            attribute, mean over the attributes that have both; NaN if none has.
        left_out: how many attributes have not.
        accuracy-NAME: of each attribute.

    Args:
        names: of the K attributes.
    """

    def __init__(self, names: Sequence[str]):
        self._names = list(names)

    def reset(self) -> None:
        # images and right answers, of no and of yes, for each attribute
        self._images, self._right = np.zeros((2, 2, len(self._names)), dtype=int)

    def process(self, inputs, outputs) -> None:
        for item, output in zip(inputs, outputs, strict=True):
            truth = np.asarray(item["attributes"], dtype=bool)
            right = (output["attributes"].cpu() > 0.5).numpy() == truth
            for answer in (0, 1):
                self._images[answer] += truth == answer
                self._right[answer] += right & (truth == answer)

    def evaluate(self) -> OrderedDict | None:
        parts = comm.gather((self._images, self._right))
        if not comm.is_main_process():
            return None
        images, right = (sum(each) for each in zip(*parts, strict=True))
        total = images.sum(0)
        if not total.any():
            raise CdlError("no image to evaluate attributes on")
        accuracy, both = right.sum(0) / total, images.all(0)
        rates = right[:, both] / images[:, both]
        shares = {
            "accuracy": accuracy.mean(),
            "balanced_accuracy": rates.mean() if both.any() else np.nan,
            "majority": (images.max(0) / total).mean(),
            **{f"accuracy-{n}": a for n, a in zip(self._names, accuracy, strict=True)},
        }
        results = {name: 100 * float(share) for name, share in shares.items()}
        return OrderedDict(attributes=results | {"left_out": int((~both).sum())})
