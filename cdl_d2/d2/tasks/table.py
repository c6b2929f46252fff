"""The records of all tasks, and what a config's task does."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from pkgutil import iter_modules

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluators
from torch import nn

from cdl_d2 import tasks
from cdl_d2.d2.data.encoding_mapper import Mapper
from cdl_d2.d2.evaluation.rate import RateEvaluator
from cdl_d2.d2.model_input import architecture_of
from cdl_d2.d2.tasks.task import Task
from cdl_d2.data.datasets.sides import pair_sides
from cdl_d2.errors import CdlError

TASKS: list[Task] = []


def register_task(task: Task) -> None:
    """Add a record to the table, and its `base` to the table of all packages."""
    tasks.register_task(task.base)
    TASKS.append(task)


for _module in iter_modules([str(Path(__file__).parent)]):
    if _module.name in tasks.TASKS:
        for _task in import_module(f"{__package__}.{_module.name}").TASKS:
            register_task(_task)


def match_task(architecture: type[nn.Module]) -> Task:
    """Return the record whose `architecture` is the nearest base class of a meta-architecture."""
    matches = (task for task in TASKS if issubclass(architecture, task.architecture))
    return max(matches, key=lambda task: len(task.architecture.__mro__))


def get_task(cfg: CfgNode) -> Task:
    """Return the record of a config's meta-architecture.

    Raises:
        CdlError: if no meta-architecture has that name.
    """
    return match_task(architecture_of(cfg))


def class_count(cfg: CfgNode) -> int:
    """Return the number of classes of a config's model; 0 for a task without classes."""
    key = get_task(cfg).num_classes
    return attrgetter(key)(cfg.MODEL) if key else 0


def register_datasets(datasets: Mapping[str, Sequence[Sequence[str]]]) -> None:
    """Register data sets under names that configs can use.

    Args:
        datasets: by option, such as `register_voc`, the values of each of its uses.

    Raises:
        FileNotFoundError, CdlError: for a data set that cannot be used, or a name that is taken.
    """
    functions = {option: f for task in TASKS for option, f in task.register.items()}
    for option, uses in datasets.items():
        for values in uses:
            functions[option](*values)


def keep_names(cfg: CfgNode) -> None:
    """Copy names of classes and attributes from the training data to empty keys of the config."""
    task, dataset = get_task(cfg), cfg.DATASETS.TRAIN[0]
    for key, names in {"CLASS_NAMES": task.class_names, **task.other_names}.items():
        if not attrgetter(key)(cfg.MODEL):
            cfg.merge_from_list([f"MODEL.{key}", list(names(dataset))])


def registered_names(cfg: CfgNode) -> tuple[str, ...]:
    """Return the class names of the config's first registered data set that has as many; or none.

    A data set whose metadata lack them is loaded, as Detectron2 reads the names of COCO-format data
    sets of a project with their annotations.
    """
    task, count = get_task(cfg), class_count(cfg)
    for dataset in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if dataset not in DatasetCatalog.list():
            continue
        with contextlib.suppress(CdlError, OSError):
            if not task.class_names(dataset):
                DatasetCatalog.get(dataset)
            if len(names := task.class_names(dataset)) == count:
                return tuple(names)
    return ()


def build_mapper(cfg: CfgNode, is_train: bool) -> Mapper:
    """Return the function from a record of a data set to a sample of the model's batch.

    Raises:
        CdlError: for an unknown INPUT.LATENT_SOURCE, or a store that cannot be used.
    """
    return get_task(cfg).build_mapper(cfg, is_train)


def build_evaluator(cfg: CfgNode, dataset: str, folder: str | Path) -> DatasetEvaluators:
    """Return the task's evaluator and that of the rate, which write to a folder."""
    evaluator = get_task(cfg).build_evaluator(cfg, dataset, str(folder))
    return DatasetEvaluators([evaluator, RateEvaluator()])


def check_evaluators(cfg: CfgNode) -> None:
    """Raise CdlError if a data set of DATASETS.TEST cannot be evaluated."""
    for dataset in cfg.DATASETS.TEST:
        get_task(cfg).check_evaluator(cfg, dataset)


def check_datasets(cfg: CfgNode, with_training: bool = True) -> None:
    """Raise CdlError if a data set is not registered, or does not fit the model."""
    task = get_task(cfg)
    training = cfg.DATASETS.TRAIN if with_training else ()
    for dataset in dict.fromkeys((*training, *cfg.DATASETS.TEST)):  # in order, without repeats
        if dataset not in DatasetCatalog.list():
            raise CdlError(
                f"data set {dataset} is not registered: add {task.base.registration(dataset)}"
            )
        task.check_dataset(cfg, dataset)
        if dataset in training and cfg.INPUT.RANDOM_FLIP == "horizontal":
            _warn_of_sides(task, dataset)


def _warn_of_sides(task: Task, dataset: str) -> None:
    """Log a warning if the names of a data set tell left from right, which mirroring swaps."""
    functions = (task.class_names, *task.other_names.values())
    if pairs := pair_sides([name for names in functions for name in names(dataset)]):
        logging.getLogger(__name__).warning(
            f"data set {dataset} tells {' from '.join(pairs[0])}, and mirrored images swap them: "
            "set INPUT.RANDOM_FLIP none"
        )
