"""Base of the evaluators that wrap a metric of cdl_d2.metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

Counts = TypeVar("Counts")


class CountingEvaluator(DatasetEvaluator, ABC, Generic[Counts]):
    """Adds every sample to a metric's counts, and merges the counts of all processes.

    Args:
        build_counts: returns empty counts, an object with a method `merge`.
    """

    def __init__(self, build_counts: Callable[[], Counts]):
        self._build_counts = build_counts
        self.reset()

    def reset(self) -> None:
        self._counts = self._build_counts()

    def process(self, inputs, outputs) -> None:
        for sample, output in zip(inputs, outputs, strict=True):
            self.add(self._counts, sample, output)

    def evaluate(self) -> OrderedDict | None:
        parts = comm.gather(self._counts)
        if not comm.is_main_process():
            return None
        total = self._build_counts()
        for part in parts:
            total.merge(part)
        return OrderedDict(self.results(total))

    @abstractmethod
    def add(self, counts: Counts, sample: Mapping[str, Any], output: Mapping[str, Any]) -> None:
        """Add a sample and the model's output for it to `counts`."""

    @abstractmethod
    def results(self, counts: Counts) -> dict[str, dict[str, float]]:
        """Return the results of the counts of all processes, by task."""
