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
from cdl_d2.prediction.tasks.segmentation import LabelGroundTruth, SegmentationTask
from cdl_d2.prediction.tasks.task import Entry, GroundTruth, Results, Save, Task, to_csv


class MultitaskGroundTruth(GroundTruth):
    """Folder with `attributes.csv` and label maps in `labels`."""

    def __init__(self, path: Path, class_names: Sequence[str]):
        super().__init__(path, class_names)
        self._attributes = read_attributes(path / "attributes.csv")
        self._labels = LabelGroundTruth(path / "labels", class_names)

    def has(self, name: str) -> bool:
        return stem_of(name) in self._attributes.rows and self._labels.has(name)

    def size(self, name: str) -> tuple[int, int] | None:
        return self._labels.size(name)

    def results(self, entries: Sequence[Entry], names: Sequence[str], folder: Path) -> Results:
        """Return `sem_seg` and `attributes`, of what the model predicts.

        Raises:
            CdlError: if the model has other attributes than the annotations.
        """
        entries, results = self.annotated(entries), {}
        if "label_map" in entries[0]:
            results |= self._labels.results(entries, names, folder)
        if "attributes" in entries[0]:
            attributes = self._attributes.names
            if set(entries[0]["attributes"]) != set(attributes):
                raise CdlError(
                    f"{self._attributes.path} has the attributes {', '.join(attributes)}; the "
                    f"model has {', '.join(entries[0]['attributes'])}"
                )
            counts = AttributeCounts(len(attributes))
            for entry in entries:
                row = self._attributes.rows[stem_of(entry["file_name"])]
                predictions = [entry["attributes"][name] > 0.5 for name in attributes]
                counts.add(np.array(row, dtype=bool), np.array(predictions))
            results["attributes"] = counts.accuracies(attributes)
        return results


class MultitaskTask(Task):
    """Of models of several tasks; see Task. What a model has no head for is left out."""

    name, answers, ground_truth = "multitask", "predictions.csv", MultitaskGroundTruth

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
        return to_csv(["file", *maps, *names], rows)
