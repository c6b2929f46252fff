"""Image classification."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator

from cdl_d2 import tasks
from cdl_d2.d2.data.class_datasets import (
    check_class_dataset,
    class_names_of,
    register_class_folder,
)
from cdl_d2.d2.data.class_mapper import build_class_mapper
from cdl_d2.d2.evaluation.classification import ClassificationEvaluator
from cdl_d2.d2.export.image_models import classifier_graphs
from cdl_d2.d2.modeling.meta_arch.classifier import CompressedClassifier
from cdl_d2.d2.tasks.task import Task


def _build_evaluator(cfg: CfgNode, dataset: str, folder: str) -> DatasetEvaluator:
    return ClassificationEvaluator(class_names_of(dataset), folder)


TASKS = (
    Task(
        base=tasks.TASKS["classification"],
        architecture=CompressedClassifier,
        register={"register_classes": register_class_folder},
        check_dataset=check_class_dataset,
        build_mapper=build_class_mapper,
        build_evaluator=_build_evaluator,
        num_classes="CLASSIFIER.NUM_CLASSES",
        class_names=class_names_of,
        of_one_size=True,
        build_graphs=classifier_graphs,
        latent_architectures={"CompressedClassifier": "CompressedClassifier"},
    ),
)
