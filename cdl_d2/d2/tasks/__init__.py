"""Tasks of Detectron2 models: for each, data sets, mappers, evaluators and exported graphs.

A module of this package belongs to the task of its name in `cdl_d2.tasks` and has `TASKS`: one
record per family of meta-architectures.
"""

from cdl_d2.d2.tasks.table import (
    build_evaluator,
    build_mapper,
    check_datasets,
    check_evaluators,
    class_count,
    get_task,
    keep_names,
    match_task,
    register_datasets,
    register_task,
    registered_names,
)
from cdl_d2.d2.tasks.task import Task

__all__ = [
    "Task",
    "build_evaluator",
    "build_mapper",
    "check_datasets",
    "check_evaluators",
    "class_count",
    "get_task",
    "keep_names",
    "match_task",
    "register_datasets",
    "register_task",
    "registered_names",
]
