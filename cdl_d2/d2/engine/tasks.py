"""What each task needs of the engine: one entry a task, chosen by the meta-architecture's class."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.modeling import PanopticFPN, SemanticSegmentor
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from torch import nn

from cdl_d2.d2.data.class_datasets import check_class_dataset, class_names_of
from cdl_d2.d2.data.class_mapper import build_class_mapper
from cdl_d2.d2.data.coco_datasets import check_coco_dataset
from cdl_d2.d2.data.encoding_mapper import (
    Mapper,
    build_detection_mapper,
    build_segmentation_mapper,
)
from cdl_d2.d2.data.label_datasets import check_label_dataset
from cdl_d2.d2.data.multitask_datasets import check_multitask_dataset
from cdl_d2.d2.evaluation.attributes import AttributeEvaluator
from cdl_d2.d2.evaluation.classification import ClassificationEvaluator
from cdl_d2.d2.evaluation.dataset_evaluators import (
    build_dataset_evaluator,
    check_evaluator,
    segmentation_evaluator,
)
from cdl_d2.d2.evaluation.rate import RateEvaluator
from cdl_d2.d2.modeling.coded_input import architecture_of
from cdl_d2.d2.modeling.meta_arch.classifier import CompressedClassifier
from cdl_d2.d2.modeling.meta_arch.multitask import CompressedMultitask
from cdl_d2.errors import CdlError


@dataclass(frozen=True)
class Task:
    """A kind of model.

    Attributes:
        name: as in configs/.
        architecture: what the meta-architectures of the task derive from.
        build_mapper: from a config and whether it is for training.
        build_evaluator: from a config, a data set's name and a folder for what it writes.
        check_dataset: from a config and a data set's name; raises CdlError unless they fit.
        registration: how a data set is made known on the command line, after `--`.
        num_classes: key of the number of classes in MODEL.
        class_names: from a data set's name to its classes, in the order of labels.
        of_one_size: whether images of evaluation have one size, and come in batches.
        other_names: keys of other names in MODEL, and where a data set has them.
        check_evaluator: from a config and a data set's name; raises CdlError if build_evaluator
            could not build.
    """

    name: str
    architecture: type[nn.Module]
    build_mapper: Callable[[CfgNode, bool], Mapper]
    build_evaluator: Callable[[CfgNode, str, str], DatasetEvaluator]
    check_dataset: Callable[[CfgNode, str], None]
    registration: str
    num_classes: str
    class_names: Callable[[str], Sequence[str]]
    of_one_size: bool = False
    other_names: Mapping[str, Callable[[str], Sequence[str]]] = field(default_factory=dict)
    check_evaluator: Callable[[CfgNode, str], None] = lambda cfg, name: None


def _classification_evaluator(cfg: CfgNode, dataset_name: str, folder: str) -> DatasetEvaluator:
    return ClassificationEvaluator(class_names_of(dataset_name), folder)


def _outputs_of(cfg: CfgNode) -> set[str]:
    """What a detector or segmentor gives, see build_dataset_evaluator."""
    architecture = architecture_of(cfg)
    if issubclass(architecture, SemanticSegmentor):
        return {"sem_seg"}
    masks = {"masks"} if cfg.MODEL.MASK_ON else set()
    panoptic = {"sem_seg", "panoptic_seg"} if issubclass(architecture, PanopticFPN) else set()
    return {"instances", *masks, *panoptic}


def _dataset_evaluator(cfg: CfgNode, dataset_name: str, folder: str) -> DatasetEvaluator:
    return build_dataset_evaluator(dataset_name, folder, _outputs_of(cfg))


def _check_evaluator(cfg: CfgNode, dataset_name: str) -> None:
    check_evaluator(dataset_name, _outputs_of(cfg))


def _attribute_evaluator(cfg: CfgNode, dataset_name: str, folder: str) -> DatasetEvaluator:
    return AttributeEvaluator(MetadataCatalog.get(dataset_name).attributes)


def _parsing_evaluator(cfg: CfgNode, dataset_name: str, folder: str) -> DatasetEvaluator:
    return segmentation_evaluator(dataset_name, folder)


# Of the tasks of one model, by the names of their heads, see cdl_d2/d2/modeling/task_heads.py.
HEAD_EVALUATORS = {"attributes": _attribute_evaluator, "parsing": _parsing_evaluator}


def _multitask_evaluator(cfg: CfgNode, dataset_name: str, folder: str) -> DatasetEvaluator:
    each = [HEAD_EVALUATORS[task](cfg, dataset_name, folder) for task in cfg.MODEL.TASKS.NAMES]
    return DatasetEvaluators(each)


_DETECTION = Task(
    "detection",
    nn.Module,
    build_detection_mapper,
    _dataset_evaluator,
    partial(check_coco_dataset, num_classes="ROI_HEADS.NUM_CLASSES"),
    "register NAME ANNOTATIONS.json IMAGE_DIR, or --register-voc NAME FOLDER SPLIT",
    "ROI_HEADS.NUM_CLASSES",
    lambda name: MetadataCatalog.get(name).get("thing_classes", ()),
    check_evaluator=_check_evaluator,
)
TASKS = (  # the first whose architecture fits
    Task(
        "classification",
        CompressedClassifier,
        build_class_mapper,
        _classification_evaluator,
        check_class_dataset,
        "register-classes NAME FOLDER",
        "CLASSIFIER.NUM_CLASSES",
        class_names_of,
        of_one_size=True,
    ),
    Task(
        "multitask",
        CompressedMultitask,
        build_segmentation_mapper,
        _multitask_evaluator,
        check_multitask_dataset,
        "register-multitask NAME IMAGE_DIR LABEL_DIR ATTRIBUTES.csv",
        "SEM_SEG_HEAD.NUM_CLASSES",
        lambda name: MetadataCatalog.get(name).get("stuff_classes", ()),
        other_names={"ATTRIBUTE_HEAD.NAMES": lambda name: MetadataCatalog.get(name).attributes},
    ),
    Task(
        "segmentation",
        SemanticSegmentor,
        build_segmentation_mapper,
        _dataset_evaluator,
        check_label_dataset,
        "register-labels NAME IMAGE_DIR LABEL_DIR",
        "SEM_SEG_HEAD.NUM_CLASSES",
        lambda name: MetadataCatalog.get(name).get("stuff_classes", ()),
        check_evaluator=_check_evaluator,
    ),
    replace(
        _DETECTION,
        architecture=DenseDetector,
        check_dataset=partial(check_coco_dataset, num_classes="RETINANET.NUM_CLASSES"),
        num_classes="RETINANET.NUM_CLASSES",
    ),
    _DETECTION,
)


def task_of(cfg: CfgNode) -> Task:
    """The task of a config's model."""
    architecture = architecture_of(cfg)
    return next(task for task in TASKS if issubclass(architecture, task.architecture))


def class_count(cfg: CfgNode) -> int:
    """How many classes a config's model tells apart."""
    return attrgetter(task_of(cfg).num_classes)(cfg.MODEL)


def keep_names(cfg: CfgNode) -> None:
    """Fill in the names of classes, and what else has names, of the training data, where the config
    does not say them."""
    task, dataset = task_of(cfg), cfg.DATASETS.TRAIN[0]
    for key, names in {"CLASS_NAMES": task.class_names, **task.other_names}.items():
        if not attrgetter(key)(cfg.MODEL):
            cfg.merge_from_list([f"MODEL.{key}", list(names(dataset))])


def build_mapper(cfg: CfgNode, is_train: bool) -> Mapper:
    """From a record of a data set to an item of the model's batch, by INPUT.DOMAIN and
    INPUT.LATENT_SOURCE.

    Raises:
        CdlError: for an unknown source, or a store that cannot be used.
    """
    return task_of(cfg).build_mapper(cfg, is_train)


def build_evaluator(cfg: CfgNode, dataset_name: str, folder: str | Path) -> DatasetEvaluators:
    """The task's evaluator, and the rate."""
    evaluator = task_of(cfg).build_evaluator(cfg, dataset_name, str(folder))
    return DatasetEvaluators([evaluator, RateEvaluator()])


def check_datasets(cfg: CfgNode, with_training: bool = True) -> None:
    """Raise CdlError if a data set is not known, or does not fit the model."""
    task = task_of(cfg)
    training = cfg.DATASETS.TRAIN if with_training else ()
    for name in dict.fromkeys((*training, *cfg.DATASETS.TEST)):  # in one order, whatever the hashes
        if name not in DatasetCatalog.list():
            raise CdlError(
                f"data set {name} is not known: register it with --"
                f"{task.registration.replace('NAME', name)}"
            )
        task.check_dataset(cfg, name)
        if with_training and name in cfg.DATASETS.TRAIN and cfg.INPUT.RANDOM_FLIP == "horizontal":
            names = [
                *task.class_names(name),
                *(n for of in task.other_names.values() for n in of(name)),
            ]
            if pair := _sides(names):
                logging.getLogger(__name__).warning(
                    f"data set {name} tells {pair[0]} from {pair[1]}, and mirrored images swap "
                    "them: set INPUT.RANDOM_FLIP none"
                )


def _sides(names: Sequence[str]) -> tuple[str, str] | None:
    """Return two of the names that differ by left and right only, such as `l_eye` and `r_eye`."""
    for name in names:
        for left, right in (("left", "right"), ("l", "r")):
            other = re.sub(rf"(?<![a-z]){left}(?![a-z])", right, name, flags=re.IGNORECASE)
            if other != name and other.lower() in map(str.lower, names):
                return name, other
    return None


def check_evaluators(cfg: CfgNode) -> None:
    """Raise CdlError if a data set of DATASETS.TEST could not be evaluated after a training."""
    for name in cfg.DATASETS.TEST:
        task_of(cfg).check_evaluator(cfg, name)
