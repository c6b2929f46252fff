"""How a data set is evaluated: by its `evaluator_type`, as in Detectron2's tools/train_net.py."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial

from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    SemSegEvaluator,
)

from cdl_d2.d2.data.label_datasets import load_labels
from cdl_d2.d2.evaluation.cityscapes import provide_cityscapesscripts
from cdl_d2.d2.evaluation.coco import CocoEvaluator
from cdl_d2.d2.evaluation.voc import VocEvaluator
from cdl_d2.errors import CdlError, MissingPackageError

PACKAGES = {
    "lvis": "pip install 'cdl_d2[lvis]'",
    "cityscapesscripts": "pip install 'cdl_d2[cityscapes]'",
    "panopticapi": "pip install git+https://github.com/cocodataset/panopticapi.git",
}


def segmentation_evaluator(name: str, folder: str) -> DatasetEvaluator:
    """Cityscapes' own, or Detectron2's for any label maps; both report the mean IoU."""
    metadata = MetadataCatalog.get(name)
    if metadata.evaluator_type == "cityscapes_sem_seg":
        return _cityscapes(CityscapesSemSegEvaluator, name, folder)
    classes, ignored = len(metadata.stuff_classes), metadata.ignore_label
    return SemSegEvaluator(
        name,
        distributed=True,
        output_dir=folder,
        sem_seg_loading_fn=partial(load_labels, classes=classes, ignored=ignored),
    )


def _cityscapes(kind: type[DatasetEvaluator], name: str, folder: str) -> DatasetEvaluator:
    provide_cityscapesscripts()
    return kind(name)


@dataclass(frozen=True)
class _Kind:
    """An evaluator: which output of a model it reads, what makes it of a data set's name and a
    folder, and the package that it imports, if any."""

    output: str
    build: Callable[[str, str], DatasetEvaluator]
    package: str = ""


_SEGMENTATION = _Kind("sem_seg", segmentation_evaluator)
_COCO = _Kind("instances", CocoEvaluator)
EVALUATORS: Mapping[str, tuple[_Kind, ...]] = {
    "coco": (_COCO,),
    "coco_panoptic_seg": (
        _SEGMENTATION,
        _COCO,
        _Kind("panoptic_seg", COCOPanopticEvaluator, "panopticapi"),
    ),
    "lvis": (
        _Kind("instances", lambda name, folder: LVISEvaluator(name, output_dir=folder), "lvis"),
    ),
    "pascal_voc": (_Kind("instances", lambda name, folder: VocEvaluator(name)),),
    "cityscapes_instance": (
        _Kind("masks", partial(_cityscapes, CityscapesInstanceEvaluator), "cityscapesscripts"),
    ),
    "cityscapes_sem_seg": (_Kind("sem_seg", segmentation_evaluator, "cityscapesscripts"),),
    "sem_seg": (_SEGMENTATION,),
}


def build_dataset_evaluator(
    name: str, folder: str, outputs: Collection[str] = ("instances",)
) -> DatasetEvaluator:
    """The evaluators of a data set that read what a model gives.

    Args:
        folder: for what they write.
        outputs: of the model, `instances`, `masks` of these, `sem_seg` and `panoptic_seg`.

    Raises:
        CdlError: see check_evaluator.
    """
    each = [kind.build(name, folder) for kind in _kinds(name, outputs)]
    return each[0] if len(each) == 1 else DatasetEvaluators(each)


def check_evaluator(name: str, outputs: Collection[str] = ("instances",)) -> None:
    """Raise CdlError unless build_dataset_evaluator can build, as far as that costs no time.

    Raises:
        CdlError: for an `evaluator_type` that is not known, or has nothing for these outputs.
        MissingPackageError: if a package that an evaluator imports is not installed.
    """
    for kind in _kinds(name, outputs):
        if kind.package:
            try:
                importlib.import_module(kind.package)
            except ImportError as error:
                raise MissingPackageError(
                    f"{error}: data set {name} is evaluated with {kind.package}, "
                    f"{PACKAGES[kind.package]}"
                ) from error


def _kinds(name: str, outputs: Collection[str]) -> list[_Kind]:
    known = MetadataCatalog.get(name).get("evaluator_type", "coco")  # which makes COCO of any
    if known not in EVALUATORS:
        raise CdlError(
            f"data set {name} has evaluator_type {known!r}, which is not one of "
            f"{', '.join(EVALUATORS)}"
        )
    kinds = [kind for kind in EVALUATORS[known] if kind.output in outputs]
    if not kinds:
        raise CdlError(
            f"data set {name} is evaluated as {known}, by {EVALUATORS[known][0].output}; the model "
            f"gives {', '.join(sorted(outputs))} only"
        )
    return kinds
