"""Evaluators of data sets, chosen by `evaluator_type` as in Detectron2's tools/train_net.py."""

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
from cdl_d2.d2.evaluation.cityscapes import alias_cityscapesscripts
from cdl_d2.d2.evaluation.coco import CocoEvaluator
from cdl_d2.d2.evaluation.voc import VocEvaluator
from cdl_d2.errors import CdlError, MissingPackageError

PACKAGES = {
    "lvis": "pip install 'cdl_d2[lvis]'",
    "cityscapesscripts": "pip install 'cdl_d2[cityscapes]'",
    "panopticapi": "pip install git+https://github.com/cocodataset/panopticapi.git",
}


def segmentation_evaluator(name: str, folder: str) -> DatasetEvaluator:
    """Build the evaluator of a data set with label maps: Cityscapes' own, or SemSegEvaluator."""
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
    alias_cityscapesscripts()
    return kind(name)


@dataclass(frozen=True)
class EvaluatorSpec:
    """Evaluator of a model output.

    Attributes:
        output: model output that it evaluates.
        build: from a data set's name and an output folder to the evaluator.
        package: that it imports, if any.
    """

    output: str
    build: Callable[[str, str], DatasetEvaluator]
    package: str = ""


_SEGMENTATION = EvaluatorSpec("sem_seg", segmentation_evaluator)
_COCO = EvaluatorSpec("instances", CocoEvaluator)
_PANOPTIC = EvaluatorSpec("panoptic_seg", COCOPanopticEvaluator, "panopticapi")
_LVIS = EvaluatorSpec(
    "instances", lambda name, folder: LVISEvaluator(name, output_dir=folder), "lvis"
)
_VOC = EvaluatorSpec("instances", lambda name, folder: VocEvaluator(name))
_CITYSCAPES_MASKS = EvaluatorSpec(
    "masks", partial(_cityscapes, CityscapesInstanceEvaluator), "cityscapesscripts"
)
EVALUATORS: Mapping[str, tuple[EvaluatorSpec, ...]] = {
    "coco": (_COCO,),
    "coco_panoptic_seg": (_SEGMENTATION, _COCO, _PANOPTIC),
    "lvis": (_LVIS,),
    "pascal_voc": (_VOC,),
    "cityscapes_instance": (_CITYSCAPES_MASKS,),
    "cityscapes_sem_seg": (EvaluatorSpec("sem_seg", segmentation_evaluator, "cityscapesscripts"),),
    "sem_seg": (_SEGMENTATION,),
}


def build_dataset_evaluator(
    name: str, folder: str, outputs: Collection[str] = ("instances",)
) -> DatasetEvaluator:
    """Build the evaluators of a data set for a model's outputs.

    Args:
        name: of the data set.
        folder: where evaluators write files.
        outputs: of the model: `instances`, `masks` of these, `sem_seg`, `panoptic_seg`.

    Raises:
        CdlError: if the data set cannot be evaluated by these outputs.
    """
    evaluators = [spec.build(name, folder) for spec in _specs(name, outputs)]
    return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)


def check_evaluator(name: str, outputs: Collection[str] = ("instances",)) -> None:
    """Check, before training, that a data set can be evaluated.

    Raises:
        CdlError: for an unknown `evaluator_type`, or one that evaluates none of the outputs.
        MissingPackageError: if a package that an evaluator imports is not installed.
    """
    for spec in _specs(name, outputs):
        if spec.package:
            try:
                importlib.import_module(spec.package)
            except ImportError as error:
                raise MissingPackageError(
                    f"{error}: data set {name} is evaluated with {spec.package}, "
                    f"{PACKAGES[spec.package]}"
                ) from error


def _specs(name: str, outputs: Collection[str]) -> list[EvaluatorSpec]:
    kind = MetadataCatalog.get(name).get("evaluator_type", "coco")
    if kind not in EVALUATORS:
        raise CdlError(
            f"data set {name} has evaluator_type {kind!r}, which is not one of "
            f"{', '.join(EVALUATORS)}"
        )
    specs = [spec for spec in EVALUATORS[kind] if spec.output in outputs]
    if not specs:
        raise CdlError(
            f"data set {name} is evaluated as {kind}, by {EVALUATORS[kind][0].output}; the model "
            f"gives {', '.join(sorted(outputs))} only"
        )
    return specs
