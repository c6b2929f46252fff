"""Segmentation: a class for every pixel of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cdl_d2.codec.io.image_files import open_image, read_label_map
from cdl_d2.data.datasets.image_lists import image_key
from cdl_d2.errors import CdlError
from cdl_d2.metrics.segmentation import PixelConfusion
from cdl_d2.prediction.results import Segmentation
from cdl_d2.prediction.tasks.task import (
    GroundTruth,
    Record,
    Results,
    Save,
    Task,
    to_csv,
)

IGNORED_LABEL = 255


class LabelGroundTruth(GroundTruth):
    """Folder of 8-bit label maps, NAME.png; 255 is ignored."""

    def __init__(self, path: Path, class_names: Sequence[str]):
        super().__init__(path, class_names)
        if not path.is_dir():
            raise FileNotFoundError(f"there is no folder of annotations {path}")

    def has(self, name: str) -> bool:
        return self._file(name).is_file()

    def count(self) -> int:
        return sum(1 for _ in self.path.rglob("*.png"))

    def size(self, name: str) -> tuple[int, int] | None:
        with open_image(self._file(name)) as file:
            return file.height, file.width

    def results(self, records: Sequence[Record], names: Sequence[str], folder: Path) -> Results:
        """Return `sem_seg` with `mIoU`, in percent, over all pixels of the annotations.

        Label maps of another size are resized by nearest neighbors.
        """
        confusion = PixelConfusion(len(self.class_names), IGNORED_LABEL)
        for record in self.annotated(records):
            path = self._file(record["file_name"])
            truth, labels = read_label_map(path), read_label_map(folder / record["label_map"])
            self.check_size(record["file_name"], labels.shape)
            if truth.shape != labels.shape:
                resized = Image.fromarray(labels).resize(
                    truth.shape[::-1], Image.Resampling.NEAREST
                )
                labels = np.asarray(resized)
            try:
                confusion.add(truth, labels)
            except CdlError as error:
                raise CdlError(f"{path}: {error}") from error
        try:
            return {"sem_seg": {"mIoU": confusion.mean_iou()}}
        except CdlError as error:
            raise CdlError(f"{self.path}: {error}") from error

    def _file(self, name: str) -> Path:
        return self.path / f"{image_key(name)}.png"


class SegmentationTask(Task):
    """Task of segmentation models."""

    name, predictions_file, ground_truth = "segmentation", "predictions.csv", LabelGroundTruth

    def prediction(self, output: Mapping[str, Any], **common: Any) -> Segmentation:
        """Read `sem_seg`, K x H x W scores."""
        return Segmentation(segmentation=label_map(output["sem_seg"]), **common)

    def to_record(self, prediction: Segmentation, save: Save) -> Record:
        """Return `label_map`, a file with the class of every pixel."""
        return {"label_map": save("labels", as_png(prediction.segmentation))}

    def format_predictions(self, records: Sequence[Record], categories: Sequence[Record]) -> str:
        """Return a row per image: its label map."""
        return to_csv(["file", "label_map"], [(r["file_name"], r["label_map"]) for r in records])


TASK = SegmentationTask()


def label_map(scores: torch.Tensor) -> torch.Tensor:
    """Return the best class of every pixel, H x W on the CPU.

    Args:
        scores: K x H x W.

    Returns:
        uint8, or int16 for more than 256 classes.
    """
    dtype = torch.uint8 if len(scores) <= 256 else torch.int16
    return scores.argmax(0).to(dtype).cpu()


def as_png(labels: torch.Tensor) -> np.ndarray:
    """Convert a label map to the types of PNG, uint8 or uint16."""
    array = labels.numpy()
    return array if array.dtype == np.uint8 else array.astype(np.uint16)
