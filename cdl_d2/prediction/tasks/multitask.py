"""Multi-task models: yes-or-no attributes of an image, and a class for every pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cdl_d2.data.datasets.attributes import read_attributes
from cdl_d2.data.datasets.image_lists import image_key
from cdl_d2.errors import CdlError
from cdl_d2.metrics.attribute_accuracy import AttributeCounts
from cdl_d2.prediction.results import AttributesAndParts
from cdl_d2.prediction.tasks.segmentation import LabelGroundTruth, as_png, label_map
from cdl_d2.prediction.tasks.task import GroundTruth, Record, Results, Save, Task, to_csv


class MultitaskGroundTruth(GroundTruth):
    """Folder with `attributes.csv` and label maps in `labels`."""

    def __init__(self, path: Path, class_names: Sequence[str]):
        super().__init__(path, class_names)
        self._attributes = read_attributes(path / "attributes.csv")
        self._labels = LabelGroundTruth(path / "labels", class_names)

    def has(self, name: str) -> bool:
        return image_key(name) in self._attributes.rows and self._labels.has(name)

    def count(self) -> int:
        return len(self._attributes.rows)

    def size(self, name: str) -> tuple[int, int] | None:
        return self._labels.size(name)

    def results(self, records: Sequence[Record], names: Sequence[str], folder: Path) -> Results:
        """Return `sem_seg` and `attributes`, of what the model predicts.

        Raises:
            CdlError: if the model has other attributes than the annotations.
        """
        records, results = self.annotated(records), {}
        if "label_map" in records[0]:
            results |= self._labels.results(records, names, folder)
        if "attributes" in records[0]:
            attributes = self._attributes.names
            if set(records[0]["attributes"]) != set(attributes):
                raise CdlError(
                    f"{self._attributes.path} has the attributes {', '.join(attributes)}; the "
                    f"model has {', '.join(records[0]['attributes'])}"
                )
            counts = AttributeCounts(len(attributes))
            for record in records:
                row = self._attributes.rows[image_key(record["file_name"])]
                predictions = [record["attributes"][name] > 0.5 for name in attributes]
                counts.add(np.array(row, dtype=bool), np.array(predictions))
            results["attributes"] = counts.accuracies(attributes)
        return results


class MultitaskTask(Task):
    """Task of multi-task models; a model may lack some of the heads."""

    name, predictions_file, ground_truth = "multitask", "predictions.csv", MultitaskGroundTruth

    def prediction(self, output: Mapping[str, Any], **common: Any) -> AttributesAndParts:
        """Read `attributes`, A probabilities, with `attribute_names`; and `sem_seg`, scores."""
        parts: dict[str, Any] = {}
        if "sem_seg" in output:
            parts["segmentation"] = label_map(output["sem_seg"])
        if "attributes" in output:
            parts["attributes"] = output["attributes"].cpu()
            parts["attribute_names"] = tuple(output["attribute_names"])
        return AttributesAndParts(**parts, **common)

    def to_record(self, prediction: AttributesAndParts, save: Save) -> Record:
        """Return `label_map`, a file, and `attributes`, probabilities by name."""
        record: Record = {}
        if prediction.segmentation is not None:
            record["label_map"] = save("labels", as_png(prediction.segmentation))
        if prediction.attributes is not None:
            pairs = zip(prediction.attribute_names, prediction.attributes.tolist(), strict=True)
            record["attributes"] = dict(pairs)
        return record

    def format_predictions(self, records: Sequence[Record], categories: Sequence[Record]) -> str:
        """Return a row per image: its label map, and the probability of each attribute."""
        first = records[0] if records else {}
        names, maps = list(first.get("attributes", ())), [k for k in ("label_map",) if k in first]
        rows = [
            (
                record["file_name"],
                *(record[key] for key in maps),
                *(f"{record['attributes'][name]:.6f}" for name in names),
            )
            for record in records
        ]
        return to_csv(["file", *maps, *names], rows)


TASK = MultitaskTask()
