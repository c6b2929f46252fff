"""The table of tasks: names, options that register data sets, and metrics; no backend is imported.

Two packages have a module of the same name for each task: `cdl_d2.d2.tasks` (data, evaluation and
export with Detectron2) and `cdl_d2.prediction.tasks` (predictions and ground truth).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from cdl_d2.errors import CdlError


class DatasetOption(NamedTuple):
    """A command-line option that registers a data set.

    Attributes:
        name: its name, without leading dashes and with underscores.
        arguments: placeholders of the values behind the data set's own name.
        help: its help text.
    """

    name: str
    arguments: str
    help: str

    def usage(self, dataset: str) -> str:
        """Return what to write on the command line to register a data set under a name."""
        return f"--{self.name.replace('_', '-')} {dataset} {self.arguments}"


class Metric(NamedTuple):
    """A value of `results.json` that a model card reports: its name there, and its digits."""

    name: str
    digits: int = 1


@dataclass(frozen=True)
class Task:
    """Record of a task, without any backend.

    Attributes:
        name: the name, also of the task's folder in configs/.
        dataset_options: command-line options that register data sets of the task.
        metrics: metrics by key of `results.json`, such as `bbox/AP`.
    """

    name: str
    dataset_options: tuple[DatasetOption, ...] = ()
    metrics: Mapping[str, Metric] = field(default_factory=dict)

    def registration(self, dataset: str) -> str:
        """Return what to add to register a data set under a name, for messages."""
        options = ", or ".join(option.usage(dataset) for option in self.dataset_options)
        return options or "its registration, in Python"


TASKS = {
    task.name: task
    for task in (
        Task(
            "detection",
            (
                DatasetOption("register", "ANNOTATIONS.json IMAGE_DIR", "In COCO format."),
                DatasetOption(
                    "register_voc",
                    "FOLDER SPLIT",
                    "Split of a folder in PASCAL VOC layout, such as `--register-voc train "
                    "VOCdevkit/VOC2007 trainval`.",
                ),
            ),
            {
                "bbox/AP": Metric("box AP"),
                "segm/AP": Metric("mask AP"),
                "keypoints/AP": Metric("keypoint AP"),
                "panoptic_seg/PQ": Metric("PQ"),
            },
        ),
        Task(
            "segmentation",
            (
                DatasetOption(
                    "register_labels",
                    "IMAGE_DIR LABEL_DIR",
                    "Images with label maps, PNG files of the same names.",
                ),
            ),
            {
                "sem_seg/mIoU": Metric("mIoU"),
                "sem_seg/IoU": Metric("mIoU"),  # as the evaluator of Cityscapes calls it
            },
        ),
        Task(
            "classification",
            (
                DatasetOption(
                    "register_classes",
                    "FOLDER",
                    "ImageFolder layout, one sub-folder per class; or a text file that names "
                    "images of such folders, one per line.",
                ),
            ),
            {"classification/top1": Metric("top-1")},
        ),
        Task(
            "multitask",
            (
                DatasetOption(
                    "register_multitask",
                    "IMAGE_DIR LABEL_DIR ATTRIBUTES.csv",
                    "Images with label maps and a table of yes-or-no attributes, such as "
                    "`--register-multitask train faces/images faces/labels faces/attributes.csv`.",
                ),
            ),
            {
                "attributes/accuracy": Metric("attribute accuracy"),
                "attributes/balanced_accuracy": Metric("balanced attribute accuracy"),
            },
        ),
    )
}


def register_task(task: Task) -> None:
    """Add a task of another package to the table.

    Raises:
        CdlError: if there is a task of that name.
    """
    if TASKS.get(task.name, task) != task:
        raise CdlError(f"there is a task {task.name} already: choose another name")
    TASKS[task.name] = task
