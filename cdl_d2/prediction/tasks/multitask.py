"""Several tasks of one image: yes-or-no attributes, and a class for every pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cdl_d2.data.datasets.attributes import read_attributes
from cdl_d2.data.datasets.sources import stem_of
from cdl_d2.errors import CdlError
from cdl_d2.metrics.attribute_accuracy import AttributeCounts
from cdl_d2.prediction.results import AttributesAndParts
from cdl_d2.prediction.tasks.segmentation import LabelTruth, SegmentationTask
from cdl_d2.prediction.tasks.task import Entry, Results, Save, Task, Truth, table


class MultitaskTruth(Truth):
    """A folder with `attributes.csv`, see read_attributes, and `labels`, see LabelTruth."""

    def __init__(self, path: Path, class_names: Sequence[str]):
        super().__init__(path, class_names)
        self._attributes = read_attributes(path / "attributes.csv")
        self._labels = LabelTruth(path / "labels", class_names)

    def knows(self, name: str) -> bool:
        """See Truth."""
        return stem_of(name) in self._attributes.rows and self._labels.knows(name)

    def size(self, name: str) -> tuple[int, int] | None:
        """See Truth."""
        return self._labels.size(name)

    def results(self, entries: Sequence[Entry], names: Sequence[str], folder: Path) -> Results:
        """`sem_seg`, see LabelTruth, and `attributes`, see AttributeCounts; raises as Truth says,
        and CdlError for other attributes."""
        known, results = self.known(entries), {}
        if "label_map" in known[0]:
            results |= self._labels.results(known, names, folder)
        if "attributes" in known[0]:
            ours, theirs = known[0]["attributes"], self._attributes.names
            if not set(ours) == set(theirs):
                raise CdlError(
                    f"{self._attributes.path} has the attributes {', '.join(theirs)}; the model "
                    f"knows {', '.join(ours)}"
                )
            counts = AttributeCounts(len(theirs))
            for entry in known:
                truth = self._attributes.rows[stem_of(entry["file_name"])]
                answers = [entry["attributes"][name] > 0.5 for name in theirs]
                counts.add(np.array(truth, dtype=bool), np.array(answers))
            results["attributes"] = counts.accuracies(theirs)
        return results


class MultitaskTask(Task):
    """Of models of several tasks; see Task. What a model has no head for is left out."""

    name, answers, truth = "multitask", "predictions.csv", MultitaskTruth

    def prediction(self, output: Mapping[str, Any], **common: Any) -> AttributesAndParts:
        """From `attributes`, K probabilities, with `attribute_names`, and `sem_seg`, scores."""
        parts: dict[str, Any] = {}
        if "sem_seg" in output:
            parts["segmentation"] = SegmentationTask().prediction(output, **common).segmentation
        if "attributes" in output:
            parts["attributes"] = output["attributes"].cpu()
            parts["attribute_names"] = tuple(output["attribute_names"])
        return AttributesAndParts(**parts, **common)

    def entry(self, found: AttributesAndParts, save: Save) -> Entry:
        """`label_map`, a file, and `attributes`, probabilities by name."""
        entry: Entry = {}
        if found.segmentation is not None:
            entry |= SegmentationTask().entry(found, save)
        if found.attributes is not None:
            pairs = zip(found.attribute_names, found.attributes.tolist(), strict=True)
            entry["attributes"] = dict(pairs)
        return entry

    def text(self, entries: Sequence[Entry], categories: Sequence[Entry]) -> str:
        """A row for each image: its label map, and the probability of each attribute."""
        first = entries[0] if entries else {}
        names, maps = (
            list(first.get("attributes", ())),
            ["label_map"] if "label_map" in first else [],
        )
        rows = [
            (
                each["file_name"],
                *(each[key] for key in maps),
                *(f"{each['attributes'][name]:.6f}" for name in names),
            )
            for each in entries
        ]
        return table(["file", *maps, *names], rows)
