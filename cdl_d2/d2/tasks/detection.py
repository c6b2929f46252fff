"""Detection: R-CNNs, panoptic models, dense detectors, and any other meta-architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import GeneralizedRCNN, PanopticFPN
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from torch import nn

from cdl_d2 import tasks
from cdl_d2.d2.data.build import build_detection_mapper
from cdl_d2.d2.data.coco_datasets import check_coco_dataset, register_dataset
from cdl_d2.d2.data.voc_datasets import register_voc
from cdl_d2.d2.evaluation.dataset_evaluators import build_dataset_evaluator, check_evaluator
from cdl_d2.d2.export.detectors import dense_detector_graphs, rcnn_graphs
from cdl_d2.d2.tasks.task import Task
from cdl_d2.export.graphs import ModelGraphs


def _detection(
    architecture: type[nn.Module],
    latent_architectures: Mapping[str, str] | None = None,
    build_graphs: Callable[..., ModelGraphs] | None = None,
    num_classes: str = "ROI_HEADS.NUM_CLASSES",
    outputs: frozenset[str] = frozenset(),
) -> Task:
    """Return the record of a family of detectors.

    `outputs` are those beside `instances`, and beside the `masks` of MODEL.MASK_ON.
    """

    def evaluated_outputs(cfg: CfgNode) -> set[str]:
        return {"instances", *outputs, *(["masks"] if cfg.MODEL.MASK_ON else [])}

    def build_evaluator(cfg: CfgNode, dataset: str, folder: str) -> DatasetEvaluator:
        return build_dataset_evaluator(dataset, folder, evaluated_outputs(cfg))

    return Task(
        base=tasks.TASKS["detection"],
        architecture=architecture,
        register={"register": register_dataset, "register_voc": register_voc},
        check_dataset=partial(check_coco_dataset, num_classes=num_classes),
        build_mapper=build_detection_mapper,
        build_evaluator=build_evaluator,
        check_evaluator=lambda cfg, dataset: check_evaluator(dataset, evaluated_outputs(cfg)),
        num_classes=num_classes,
        class_names=lambda dataset: MetadataCatalog.get(dataset).get("thing_classes", ()),
        build_graphs=build_graphs,
        latent_architectures=latent_architectures or {},
    )


TASKS = (
    _detection(nn.Module),
    _detection(
        GeneralizedRCNN,
        {"GeneralizedRCNN": "CompressedRCNN", "CompressedRCNN": "CompressedRCNN"},
        rcnn_graphs,
    ),
    _detection(
        PanopticFPN,
        {
            "PanopticFPN": "CompressedPanopticFPN",
            "CompressedPanopticFPN": "CompressedPanopticFPN",
        },
        outputs=frozenset({"sem_seg", "panoptic_seg"}),
    ),
    _detection(
        DenseDetector,
        {
            "RetinaNet": "CompressedRetinaNet",
            "CompressedRetinaNet": "CompressedRetinaNet",
            "FCOS": "CompressedFCOS",
            "CompressedFCOS": "CompressedFCOS",
        },
        dense_detector_graphs,
        num_classes="RETINANET.NUM_CLASSES",
    ),
)
