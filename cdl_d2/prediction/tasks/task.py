"""What a task is to predictions, and what is known of the sources of an archive.

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

Results = dict[str, dict[str, float]]
Entry = dict[str, Any]
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

    def rescale(self, entry: Entry) -> Entry:
        """Scale a prediction to its annotation's size, unless the aspect ratios differ."""
        return entry

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

    @abstractmethod
    def results(self, entries: Sequence[Entry], names: Sequence[str], folder: Path) -> Results:
        """Return the accuracy on the sources that are annotated.

        Args:
            entries: predictions as Task.entry returns them, with `file_name`, `height` and `width`.
            names: of all sources, including those that could not be read.
            folder: where the files that `entries` name are.

        Raises:
            CdlError: if no source is annotated, or one does not fit its annotation.
        """

    def require_any(self, names: Iterable[str]) -> None:
        """Raise CdlError if none of the sources is annotated."""
        if not any(map(self.has, names)):
            raise CdlError(f"{self.path} annotates none of the predicted images")

    def annotated(self, entries: Sequence[Entry]) -> list[Entry]:
        """Return the entries of annotated sources. Raise CdlError if there are none."""
        self.require_any(entry["file_name"] for entry in entries)
        return [entry for entry in entries if self.has(entry["file_name"])]


class Task(ABC):
    """A kind of model.

    Attributes:
        name: as in configs/, and of the engine's task.
        answers: name of the file with an archive's predictions.
        ground_truth: from the path of annotations, and the names of the model's classes.
        of_one_size: whether images of evaluation have one size, and are cropped to it.
    """

    name: str
    answers: str
    ground_truth: type[GroundTruth]
    of_one_size = False

    @abstractmethod
    def prediction(self, output: Mapping[str, Any], **common: Any) -> Prediction:
        """What a network's output for one image says.

        Args:
            common: what Prediction has for all tasks.
        """

    @abstractmethod
    def entry(self, found: Any, save: Save) -> Entry:
        """What a part of an archive says of a prediction, as JSON.

        Args:
            save: writes pixels, H x W, as a PNG in a folder of this name; gives its path.
        """

    @abstractmethod
    def text(self, entries: Sequence[Entry], categories: Sequence[Entry]) -> str:
        """The content of the file with all predictions.

        Args:
            entries: also with the `id` of the image.
            categories: K, `id` and `name` of the model's classes.
        """

    def more_texts(self, entries: Sequence[Entry], categories: Sequence[Entry]) -> dict[str, str]:
        """Return the content of further files, by name; arguments as of `text`."""
        return {}


def same_aspect_ratio(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Return True if resizing one (H, W) can give the other, within a pixel."""
    difference = abs(a[0] * b[1] - a[1] * b[0])
    return difference <= max(sum(a), sum(b))


def order_classes(annotated: Sequence[str], names: Sequence[str], path: Path) -> list[str]:
    """Return the annotations' class names in the model's order.

    A model without names has numbers, "0", "1", ...: then the order is that of the annotations.

    Raises:
        CdlError: if the annotations have other classes than the model.
    """
    numbered = list(names) == [str(i) for i in range(len(names))]
    if len(annotated) != len(names) or not (numbered or set(annotated) == set(names)):
        raise CdlError(
            f"{path} has the classes {', '.join(annotated)}; the model has {', '.join(names)}"
        )
    return list(annotated if numbered else names)


def unique_values(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Return the values of keys that occur once."""
    values: dict[str, list[int]] = {}
    for key, value in pairs:
        values.setdefault(key, []).append(value)
    return {key: numbers[0] for key, numbers in values.items() if len(numbers) == 1}


def to_csv(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a head and rows as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return text.getvalue()
