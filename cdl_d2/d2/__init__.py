"""All code on Detectron2; importing it registers backbones and meta-architectures."""

import importlib.util

from cdl_d2.errors import MissingPackageError

if not importlib.util.find_spec("detectron2"):
    raise MissingPackageError(
        "Detectron2 is not installed: install it as README.md says, or use "
        "`cdl train-torchvision`, which needs torchvision only"
    )

from cdl_d2.d2.applications.scripts import (
    set_up_project,
    setup_environment,  # first: Detectron2's import may call it
    without_project,
)

with without_project() as _project:
    import detectron2  # noqa: F401  before what is imported from it

from cdl_d2.d2.checkpoint import SafeCheckpointer
from cdl_d2.d2.config import add_cdl_config
from cdl_d2.d2.data.coco_datasets import register_dataset
from cdl_d2.d2.engine.trainer import Trainer
from cdl_d2.d2.evaluation.rate import RateEvaluator
from cdl_d2.d2.model_input import build_codec
from cdl_d2.d2.modeling.backbone.bridged_backbone import build_bridged_backbone
from cdl_d2.d2.modeling.backbone.latent_resnet import (
    build_fcos_latent_resnet_fpn_backbone,
    build_latent_resnet_backbone,
    build_latent_resnet_fpn_backbone,
    build_retinanet_latent_resnet_fpn_backbone,
)
from cdl_d2.d2.modeling.backbone.timm_backbone import build_timm_backbone
from cdl_d2.d2.modeling.meta_arch.classifier import CompressedClassifier, TransferClassifier
from cdl_d2.d2.modeling.meta_arch.compressed_dense_detector import (
    CompressedFCOS,
    CompressedRetinaNet,
)
from cdl_d2.d2.modeling.meta_arch.compressed_detector import CompressedDetector
from cdl_d2.d2.modeling.meta_arch.compressed_model import CompressedModel
from cdl_d2.d2.modeling.meta_arch.compressed_rcnn import CompressedPanopticFPN, CompressedRCNN
from cdl_d2.d2.modeling.meta_arch.joint_classifier import JointClassifier
from cdl_d2.d2.modeling.meta_arch.joint_multitask import JointMultitask
from cdl_d2.d2.modeling.meta_arch.multitask import CompressedMultitask
from cdl_d2.d2.modeling.meta_arch.segmentor import CompressedSegmentor, TransferSegmentor
from cdl_d2.d2.modeling.meta_arch.transfer_rcnn import TransferPanopticFPN, TransferRCNN
from cdl_d2.d2.tasks import build_mapper, check_datasets

__all__ = [
    "CompressedClassifier",
    "CompressedDetector",
    "CompressedFCOS",
    "CompressedModel",
    "CompressedMultitask",
    "CompressedPanopticFPN",
    "CompressedRCNN",
    "CompressedRetinaNet",
    "CompressedSegmentor",
    "JointClassifier",
    "JointMultitask",
    "RateEvaluator",
    "SafeCheckpointer",
    "Trainer",
    "TransferClassifier",
    "TransferPanopticFPN",
    "TransferRCNN",
    "TransferSegmentor",
    "add_cdl_config",
    "build_bridged_backbone",
    "build_codec",
    "build_fcos_latent_resnet_fpn_backbone",
    "build_latent_resnet_backbone",
    "build_latent_resnet_fpn_backbone",
    "build_mapper",
    "build_retinanet_latent_resnet_fpn_backbone",
    "build_timm_backbone",
    "check_datasets",
    "register_dataset",
    "setup_environment",
]

set_up_project(_project)  # it may import this package, which is complete now
