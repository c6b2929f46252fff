"""Several tasks of one model: attributes of the image, and a class per pixel."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators

from cdl_d2 import tasks
from cdl_d2.d2.data.build import build_segmentation_mapper
from cdl_d2.d2.data.multitask_datasets import check_multitask_dataset, register_multitask
from cdl_d2.d2.evaluation.attributes import AttributeEvaluator
from cdl_d2.d2.evaluation.dataset_evaluators import segmentation_evaluator
from cdl_d2.d2.modeling.meta_arch.multitask import CompressedMultitask
from cdl_d2.d2.tasks.task import Task

# Evaluators by the name of the head (cdl_d2/d2/modeling/task_heads.py) whose output they read, from
# a data set's name and a folder.
HEAD_EVALUATORS = {
    "attributes": lambda dataset, folder: AttributeEvaluator(
        MetadataCatalog.get(dataset).attributes
    ),
    "parsing": segmentation_evaluator,
}


def _build_evaluator(cfg: CfgNode, dataset: str, folder: str) -> DatasetEvaluator:
    heads = cfg.MODEL.TASKS.NAMES
    return DatasetEvaluators([HEAD_EVALUATORS[head](dataset, folder) for head in heads])


TASKS = (
    Task(
        base=tasks.TASKS["multitask"],
        architecture=CompressedMultitask,
        register={"register_multitask": register_multitask},
        check_dataset=check_multitask_dataset,
        build_mapper=build_segmentation_mapper,
        build_evaluator=_build_evaluator,
        num_classes="SEM_SEG_HEAD.NUM_CLASSES",
        class_names=lambda dataset: MetadataCatalog.get(dataset).get("stuff_classes", ()),
        other_names={"ATTRIBUTE_HEAD.NAMES": lambda name: MetadataCatalog.get(name).attributes},
    ),
)
