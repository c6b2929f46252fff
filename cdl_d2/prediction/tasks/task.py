"""Tasks of models as predictions need them, and ground truth of an archive's sources.

Shapes: K classes.
"""

from __future__ import annotations

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cdl_d2.errors import CdlError
from cdl_d2.prediction.results import Prediction

MAX_LISTED = 5  # classes in an error

Results = dict[str, dict[str, float]]
Record = dict[str, Any]
Save = Callable[[str, np.ndarray], str]


class GroundTruth(ABC):
    """Annotations of an archive's sources, which are matched by name without suffix.

    Attributes:
        path: file or folder of the annotations.
        class_names: K names of the model's classes.
        category_ids: K numbers of these classes in the annotations; None without numbers.

    Raises:
        CdlError, OSError: if they cannot be read, or have other classes than the model.
    """

    category_ids: Sequence[int] | None = None

    def __init__(self, path: Path, class_names: Sequence[str]):
        self.path, self.class_names = path, class_names

    def image_id(self, name: str) -> int | None:
        """Return the annotations' number of a source; None without one."""
        return None

    def size(self, name: str) -> tuple[int, int] | None:
        """Return the (H, W) in pixels of a source's annotation; None if it has no size."""
        return None

    def rescale(self, record: Record) -> Record:
        """Scale a prediction to its annotation's size, unless the aspect ratios differ."""
        return record

    def check_size(self, name: str, size: tuple[int, int]) -> None:
        """Raise CdlError unless (H, W) has the aspect ratio of the source's annotation."""
        annotated = self.size(name)
        if annotated is not None and not same_aspect_ratio(size, annotated):
            raise CdlError(
                f"{name} has {size} pixels, (height, width), and is annotated at {annotated} in "
                f"{self.path}, which is of another shape: is it the same image, and upright?"
            )

    @abstractmethod
    def has(self, name: str) -> bool:
        """Return True if a source is annotated."""

    def count(self) -> int | None:
        """Return the number of annotated images; None if it is not known."""
        return None

    @abstractmethod
    def results(self, records: Sequence[Record], names: Sequence[str], folder: Path) -> Results:
        """Return the accuracy on the sources that are annotated.

        Args:
            records: of Task.to_record, with `file_name`, `height` and `width`.
            names: of all sources, including those that could not be read.
            folder: where the files that `records` name are.

        Raises:
            CdlError: if no source is annotated, or one does not fit its annotation.
        """

    def require_any(self, names: Iterable[str]) -> None:
        """Raise CdlError if none of the sources is annotated."""
        if not any(map(self.has, names)):
            raise CdlError(f"{self.path} annotates none of the predicted images")

    def annotated(self, records: Sequence[Record]) -> list[Record]:
        """Return the records of annotated sources. Raise CdlError if there are none."""
        self.require_any(record["file_name"] for record in records)
        return [record for record in records if self.has(record["file_name"])]


class Task(ABC):
    """Task of a model.

    Attributes:
        name: as in configs/ and in Detectron2's table of tasks.
        predictions_file: name of the file with an archive's predictions.
        ground_truth: class of the annotations.
        of_one_size: True if evaluation crops all images to one size.
    """

    name: str
    predictions_file: str
    ground_truth: type[GroundTruth]
    of_one_size = False

    @abstractmethod
    def prediction(self, output: Mapping[str, Any], **common: Any) -> Prediction:
        """Return the prediction in a network's output for one image.

        Args:
            output: result of Backend.read_output.
            common: fields of Prediction.
        """

    @abstractmethod
    def to_record(self, prediction: Any, save: Save) -> Record:
        """Convert a prediction to JSON values, for a part of an archive.

        Args:
            prediction: prediction of one image.
            save: function that writes pixels, H x W, as a PNG to a folder of this name and returns
                its path.
        """

    @abstractmethod
    def format_predictions(self, records: Sequence[Record], categories: Sequence[Record]) -> str:
        """Return the content of the file with all predictions.

        Args:
            records: of the predictions, with the `id` of the image.
            categories: K, `id` and `name` of the model's classes.
        """

    def format_files(
        self, records: Sequence[Record], categories: Sequence[Record]
    ) -> dict[str, str]:
        """Return the content of all files to write, by name; arguments as format_predictions."""
        return {self.predictions_file: self.format_predictions(records, categories)}


def same_aspect_ratio(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Return True if resizing one (H, W) can give the other, within a pixel."""
    difference = abs(a[0] * b[1] - a[1] * b[0])
    return difference <= max(sum(a), sum(b))


def order_classes(
    annotated: Sequence[str], names: Sequence[str], path: Path, allow_some: bool = False
) -> list[str]:
    """Return the annotations' class names in the model's order.

    A model without names has numbers, "0", "1", ...: then the order is that of the annotations.

    Args:
        annotated: class names of the annotations.
        names: class names of the model.
        path: of the annotations.
        allow_some: the annotations may lack classes of the model.

    Raises:
        CdlError: if the annotations have other classes than the model.
    """
    if list(names) == [str(i) for i in range(len(names))] and len(annotated) == len(names):
        return list(annotated)
    unknown, lacking = sorted({*annotated} - {*names}), sorted({*names} - {*annotated})
    if unknown or (lacking and not allow_some):
        raise CdlError(
            f"{path} has {len(annotated)} classes, the model {len(names)}: "
            + "; ".join(
                f"the {owner} lacks {', '.join(classes[:MAX_LISTED])}"
                f"{', ...' if len(classes) > MAX_LISTED else ''}"
                for owner, classes in (("model", unknown), ("annotation", lacking))
                if classes
            )
        )
    return list(names)


def unique_values(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Return the values of keys that occur once."""
    values: dict[str, list[int]] = {}
    for key, value in pairs:
        values.setdefault(key, []).append(value)
    return {key: numbers[0] for key, numbers in values.items() if len(numbers) == 1}


def to_csv(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a head and rows in CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return text.getvalue()
