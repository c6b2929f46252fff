"""Semantic segmentation."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import SemanticSegmentor

from cdl_d2 import tasks
from cdl_d2.d2.data.build import build_segmentation_mapper
from cdl_d2.d2.data.label_datasets import check_label_dataset, register_label_folder
from cdl_d2.d2.evaluation.dataset_evaluators import build_dataset_evaluator, check_evaluator
from cdl_d2.d2.export.image_models import segmentor_graphs
from cdl_d2.d2.tasks.task import Task

OUTPUTS = ("sem_seg",)


def _build_evaluator(cfg: CfgNode, dataset: str, folder: str) -> DatasetEvaluator:
    return build_dataset_evaluator(dataset, folder, OUTPUTS)


TASKS = (
    Task(
        base=tasks.TASKS["segmentation"],
        architecture=SemanticSegmentor,
        register={"register_labels": register_label_folder},
        check_dataset=check_label_dataset,
        build_mapper=build_segmentation_mapper,
        build_evaluator=_build_evaluator,
        check_evaluator=lambda cfg, dataset: check_evaluator(dataset, OUTPUTS),
        num_classes="SEM_SEG_HEAD.NUM_CLASSES",
        class_names=lambda dataset: MetadataCatalog.get(dataset).get("stuff_classes", ()),
        build_graphs=segmentor_graphs,
        latent_architectures={
            "SemanticSegmentor": "CompressedSegmentor",
            "CompressedSegmentor": "CompressedSegmentor",
        },
    ),
)
