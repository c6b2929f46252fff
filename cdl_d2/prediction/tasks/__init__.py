"""Tasks as predictions need them: one file and one entry of TASKS per task."""

from cdl_d2.prediction.tasks.classification import ClassificationTask
from cdl_d2.prediction.tasks.detection import DetectionTask
from cdl_d2.prediction.tasks.multitask import MultitaskTask
from cdl_d2.prediction.tasks.segmentation import SegmentationTask
from cdl_d2.prediction.tasks.task import GroundTruth, Record, Results, Task

TASKS: dict[str, Task] = {
    task.name: task
    for task in (ClassificationTask(), MultitaskTask(), SegmentationTask(), DetectionTask())
}

__all__ = ["TASKS", "GroundTruth", "Record", "Results", "Task"]
