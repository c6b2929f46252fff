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


class Truth(ABC):
    """Annotations of an archive's sources, which are found by name without suffix.

    Attributes:
        path: of the annotations.
        class_names: K, that the model knows.
        category_ids: K, their numbers of these classes, if they have any.

    Raises:
        CdlError, OSError: if they cannot be read, or are of other classes.
    """

    category_ids: Sequence[int] | None = None

    def __init__(self, path: Path, class_names: Sequence[str]):
        self.path, self.class_names = path, class_names

    def image_id(self, name: str) -> int | None:
        """Their number of a source, if they have one."""
        return None

    def size(self, name: str) -> tuple[int, int] | None:
        """Return (H, W) in pixels of what is annotated of a source; None if it has no size."""
        return None

    def fitted(self, entry: Entry) -> Entry:
        """Return an entry in pixels of its annotation; as it is, if their shapes differ."""
        return entry

    def check_size(self, name: str, size: tuple[int, int]) -> None:
        """Raise CdlError unless a source of (H, W) pixels has the shape of its annotation."""
        annotated = self.size(name)
        if annotated is not None and not have_one_shape(size, annotated):
            raise CdlError(
                f"{name} has {size} pixels, (height, width), and is annotated at {annotated} in "
                f"{self.path}, which is of another shape: is it the same image, and upright?"
            )

    @abstractmethod
    def knows(self, name: str) -> bool:
        """Whether a source is annotated."""

    @abstractmethod
    def results(self, entries: Sequence[Entry], names: Sequence[str], folder: Path) -> Results:
        """How good predictions are, on the sources that are annotated.

        Args:
            entries: of the predictions, see Task.entry; with `file_name`, `height` and `width`.
            names: of all sources, also of those that could not be read.
            folder: of the files that entries name.

        Raises:
            CdlError: if none is annotated, or one is not as its annotation.
        """

    def check_some(self, names: Iterable[str]) -> None:
        """Raise CdlError if none of the sources is annotated."""
        if not any(map(self.knows, names)):
            raise CdlError(f"{self.path} annotates none of the predicted images")

    def known(self, entries: Sequence[Entry]) -> list[Entry]:
        """The entries of sources that are annotated; raises CdlError if there are none."""
        self.check_some(entry["file_name"] for entry in entries)
        return [entry for entry in entries if self.knows(entry["file_name"])]


class Task(ABC):
    """A kind of model.

    Attributes:
        name: as in configs/, and of the engine's task.
        answers: name of the file with an archive's predictions.
        truth: from the path of annotations, and the names of the model's classes.
        of_one_size: whether images of evaluation have one size, and are cropped to it.
    """

    name: str
    answers: str
    truth: type[Truth]
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


def have_one_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return whether images of (H, W) pixels can be resized to each other, within a pixel."""
    difference = abs(size[0] * other[1] - size[1] * other[0])
    return difference <= max(sum(size), sum(other))


def ordered(theirs: Sequence[str], names: Sequence[str], path: Path) -> list[str]:
    """The classes of annotations in the order of a model's, which has numbers where nobody named
    them: then as they are.

    Raises:
        CdlError: if they are others.
    """
    numbered = list(names) == [str(i) for i in range(len(names))]
    if len(theirs) != len(names) or not (numbered or set(theirs) == set(names)):
        raise CdlError(
            f"{path} has the classes {', '.join(theirs)}; the model knows {', '.join(names)}"
        )
    return list(theirs if numbered else names)


def unambiguous(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """What only one pair says."""
    found: dict[str, list[int]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return {key: values[0] for key, values in found.items() if len(values) == 1}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return text.getvalue()
