"""Predictions and ground truth of each task: a module per entry of `cdl_d2.tasks`, with `TASK`."""

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from cdl_d2 import tasks
from cdl_d2.prediction.tasks.task import GroundTruth, Record, Results, Task

TASKS: dict[str, Task] = {}


def register_task(task: Task) -> None:
    """Add a task to the table."""
    TASKS[task.name] = task


for _module in iter_modules([str(Path(__file__).parent)]):
    if _module.name in tasks.TASKS:
        register_task(import_module(f"{__name__}.{_module.name}").TASK)

__all__ = ["TASKS", "GroundTruth", "Record", "Results", "Task", "register_task"]
