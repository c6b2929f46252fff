"""Evaluator of the rate of coded images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cdl_d2.d2.evaluation.counting import CountingEvaluator
from cdl_d2.metrics.rate import RateTotals


class RateEvaluator(CountingEvaluator[RateTotals]):
    """Rate of the images that a model encodes, `rate` in the results: those of RateTotals.results.

    No results for a model of original images, whose outputs have no `bits`.
    """

    def __init__(self) -> None:
        super().__init__(RateTotals)

    def add(self, counts: RateTotals, sample: Mapping, output: Mapping[str, Any]) -> None:
        if "bits" in output:
            height, width = output["image_size"]
            counts.add(output["bits"], height * width, output)

    def results(self, counts: RateTotals) -> dict[str, dict[str, float]]:
        rate = counts.results()
        return {"rate": rate} if rate else {}
