"""Evaluator of yes-or-no attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from cdl_d2.d2.evaluation.counting import CountingEvaluator
from cdl_d2.metrics.attribute_accuracy import AttributeCounts


class AttributeEvaluator(CountingEvaluator[AttributeCounts]):
    """Accuracy of K attributes, `attributes` in the results: those of AttributeCounts.accuracies.

    Samples have `attributes`, K zeros and ones; outputs have `attributes`, K probabilities; those
    above 0.5 predict a yes.

    Args:
        names: of the K attributes.
    """

    def __init__(self, names: Sequence[str]):
        self._names = list(names)
        super().__init__(partial(AttributeCounts, len(self._names)))

    def add(self, counts: AttributeCounts, sample: Mapping, output: Mapping[str, Any]) -> None:
        predictions = output["attributes"].float().cpu().numpy() > 0.5
        counts.add(np.asarray(sample["attributes"], dtype=bool), predictions)

    def results(self, counts: AttributeCounts) -> dict[str, dict[str, float]]:
        return {"attributes": counts.accuracies(self._names)}
