"""Accuracy of yes-or-no attributes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from cdl_d2.metrics.attribute_accuracy import AttributeCounts


class AttributeEvaluator(DatasetEvaluator):
    """How often a model's answers about K attributes of an image are right, in percent.

    Items have `attributes`, K zeros and ones; outputs have `attributes`, K probabilities, of which
    those above 0.5 are a yes.

    Results: `attributes`, see AttributeCounts.accuracies.

    Args:
        names: of the K attributes.
    """

    def __init__(self, names: Sequence[str]):
        self._names = list(names)

    def reset(self) -> None:
        self._counts = AttributeCounts(len(self._names))

    def process(self, inputs, outputs) -> None:
        for item, output in zip(inputs, outputs, strict=True):
            answers = output["attributes"].float().cpu().numpy() > 0.5
            self._counts.add(np.asarray(item["attributes"], dtype=bool), answers)

    def evaluate(self) -> OrderedDict | None:
        parts = comm.gather((self._counts.images, self._counts.right))
        if not comm.is_main_process():
            return None
        total = AttributeCounts(len(self._names))
        total.images, total.right = (sum(each) for each in zip(*parts, strict=True))
        return OrderedDict(attributes=total.accuracies(self._names))
