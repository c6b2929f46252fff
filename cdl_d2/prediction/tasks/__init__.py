"""What predictions need of each task: a file and an entry a task, as the engine's table has it."""

from cdl_d2.prediction.tasks.classification import ClassificationTask
from cdl_d2.prediction.tasks.detection import DetectionTask
from cdl_d2.prediction.tasks.multitask import MultitaskTask
from cdl_d2.prediction.tasks.segmentation import SegmentationTask
from cdl_d2.prediction.tasks.task import GroundTruth, Results, Task

TASKS: dict[str, Task] = {
    task.name: task
    for task in (ClassificationTask(), MultitaskTask(), SegmentationTask(), DetectionTask())
}

__all__ = ["TASKS", "GroundTruth", "Results", "Task"]
