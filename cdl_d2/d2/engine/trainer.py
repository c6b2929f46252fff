"""Detectron2's DefaultTrainer with this project's mapper, evaluators and checkpoints."""

from __future__ import annotations

import logging
import os
import weakref
from functools import partial

import torch
from detectron2.config import CfgNode
from detectron2.data import (
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    SemSegEvaluator,
)
from detectron2.projects.deeplab import build_lr_scheduler
from detectron2.solver.build import maybe_add_gradient_clipping
from detectron2.utils import comm
from torch import nn

from cdl_d2.d2.checkpoint import SafeCheckpointer
from cdl_d2.d2.data.class_datasets import class_names_of
from cdl_d2.d2.data.label_datasets import is_segmentation, load_labels
from cdl_d2.d2.data.latent_mapper import build_mapper
from cdl_d2.d2.evaluation.cityscapes import build_cityscapes_evaluator
from cdl_d2.d2.evaluation.classification import ClassificationEvaluator
from cdl_d2.d2.evaluation.rate import RateEvaluator
from cdl_d2.d2.modeling.meta_arch.classifier import is_classification
from cdl_d2.d2.modeling.meta_arch.joint_classifier import JointClassifier
from cdl_d2.errors import CdlError
from cdl_d2.nn import LatentInput, LatentResNet, initialize_trunk
from cdl_d2.nn.statistics import load_statistics

AMP_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class Trainer(DefaultTrainer):
    """Trains and evaluates detectors, classifiers and segmentors in the compressed domain."""

    def __init__(self, cfg: CfgNode):
        """
        Raises:
            ValueError: for an unknown SOLVER.AMP.DTYPE.
        """
        if cfg.SOLVER.AMP.DTYPE not in AMP_DTYPES:
            raise CdlError(
                f"SOLVER.AMP.DTYPE {cfg.SOLVER.AMP.DTYPE!r} is not one of {', '.join(AMP_DTYPES)}"
            )
        if cfg.INPUT.LATENT_SOURCE == "store" and cfg.DATASETS.TEST:
            build_mapper(cfg, is_train=False)  # an unusable store shows now, not after training
        super().__init__(_without_amp_on_cpu(cfg))
        if self.cfg.SOLVER.AMP.ENABLED:
            self._trainer.precision = AMP_DTYPES[cfg.SOLVER.AMP.DTYPE]

    def build_hooks(self):
        """Detectron2's hooks, around a checkpointer that writes atomically."""
        self.checkpointer = SafeCheckpointer(
            self.model, self.cfg.OUTPUT_DIR, trainer=weakref.proxy(self)
        )
        return super().build_hooks()

    def resume_or_load(self, resume: bool = True) -> None:
        """As DefaultTrainer; a new training starts from MODEL.LATENT_RESNET's INIT and STATISTICS
        before MODEL.WEIGHTS are loaded."""
        if not (resume and self.checkpointer.has_checkpoint()):
            initialize_backbone(self.checkpointer.model, self.cfg)
        super().resume_or_load(resume)
        if hasattr(self.checkpointer.model, "prepare_teacher"):
            self.checkpointer.model.prepare_teacher()  # an error now, not inside the training loop

    @classmethod
    def build_optimizer(cls, cfg, model):
        """As DefaultTrainer, with a rate of its own for a gate; in joint fine-tuning Adam, with one
        for the codec."""
        if not isinstance(model, JointClassifier):
            optimizer = super().build_optimizer(cfg, model)
            if getattr(model, "selection", None) is not None:
                gate_rate = cfg.SOLVER.BASE_LR * cfg.MODEL.SELECTION.LR_FACTOR
                _give_rate(optimizer, list(model.selection.parameters()), gate_rate)
            return optimizer
        codec_rate = cfg.SOLVER.BASE_LR * cfg.MODEL.JOINT.CODEC_LR_FACTOR
        groups = [
            {"params": model.network.parameters(), "lr": cfg.SOLVER.BASE_LR},
            {"params": model.trained_codec.parameters(), "lr": codec_rate},
        ]
        return maybe_add_gradient_clipping(cfg, torch.optim.Adam)(groups)

    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer):
        """As DefaultTrainer, and the polynomial schedule of Detectron2's DeepLab project."""
        return build_lr_scheduler(cfg, optimizer)

    def train(self) -> dict | None:
        """As DefaultTrainer; the results of the last evaluation, whatever TEST expects."""
        super().train()
        model = self.checkpointer.model
        if isinstance(model, JointClassifier) and comm.is_main_process():
            model.export_codec(os.path.join(self.cfg.OUTPUT_DIR, "codec.safetensors"))
        return getattr(self, "_last_eval_results", None)

    @classmethod
    def build_train_loader(cls, cfg):
        return build_detection_train_loader(cfg, mapper=build_mapper(cfg, is_train=True))

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        share = max(cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size(), 1)
        batch = share if is_classification(cfg) else 1
        loader = build_detection_test_loader
        return loader(cfg, dataset_name, mapper=build_mapper(cfg, is_train=False), batch_size=batch)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name, output_folder=None):
        folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
        if is_segmentation(cfg):
            evaluator = _segmentation_evaluator(dataset_name, folder)
        elif is_classification(cfg):
            evaluator = ClassificationEvaluator(class_names_of(dataset_name), folder)
        else:
            evaluator = COCOEvaluator(dataset_name, output_dir=folder)
        return DatasetEvaluators([evaluator, RateEvaluator()])


def _give_rate(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], rate: float
) -> None:
    """Move parameters, if there are any, to a group with a learning rate of its own."""
    moved = {id(parameter) for parameter in parameters}
    for group in optimizer.param_groups:
        group["params"] = [each for each in group["params"] if id(each) not in moved]
    if parameters:
        optimizer.add_param_group({"params": parameters, "lr": rate})


def _segmentation_evaluator(dataset_name: str, folder: str) -> DatasetEvaluator:
    """Cityscapes' own, or Detectron2's for any label maps; both report the mean IoU."""
    if MetadataCatalog.get(dataset_name).evaluator_type == "cityscapes_sem_seg":
        return build_cityscapes_evaluator(dataset_name)
    metadata = MetadataCatalog.get(dataset_name)
    classes, ignored = len(metadata.stuff_classes), metadata.ignore_label
    return SemSegEvaluator(
        dataset_name,
        distributed=True,
        output_dir=folder,
        sem_seg_loading_fn=partial(load_labels, classes=classes, ignored=ignored),
    )


def initialize_backbone(model: nn.Module, cfg: CfgNode) -> None:
    """Start a latent ResNet from MODEL.LATENT_RESNET.INIT and .STATISTICS, where given."""
    logger = logging.getLogger(__name__)
    resnet = cfg.MODEL.LATENT_RESNET
    for trunk in [module for module in model.modules() if isinstance(module, LatentResNet)]:
        if resnet.INIT:
            loaded = initialize_trunk(trunk, resnet.INIT)
            logger.info(f"{len(loaded)} entries of the latent ResNet start from {resnet.INIT}")
    for entrance in [module for module in model.modules() if isinstance(module, LatentInput)]:
        if resnet.STATISTICS:
            mean, std = load_statistics(resnet.STATISTICS, entrance.identity)
            entrance.mean.copy_(mean)
            entrance.std.copy_(std)
            logger.info(f"latents are normalized by {resnet.STATISTICS}")


def _without_amp_on_cpu(cfg: CfgNode) -> CfgNode:
    if not (cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE == "cpu"):
        return cfg
    logging.getLogger(__name__).warning("mixed precision needs a GPU: training in float32")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.AMP.ENABLED = False
    cfg.freeze()
    return cfg
