"""Everything that touches Detectron2; importing it registers backbones and meta-architectures."""

import importlib.util

if not importlib.util.find_spec("detectron2"):
    raise ModuleNotFoundError(
        "Detectron2 is not installed: build it as README.md says, or use "
        "tools/train_torchvision.py, which needs torchvision only"
    )

from cdl_d2.d2.backbone import build_latent_resnet_backbone, build_latent_resnet_fpn_backbone
from cdl_d2.d2.checkpoint import SafeCheckpointer
from cdl_d2.d2.classifier import CompressedClassifier, TransferClassifier
from cdl_d2.d2.codec import build_codec
from cdl_d2.d2.compressed_rcnn import CompressedRCNN
from cdl_d2.d2.config import add_cdl_config
from cdl_d2.d2.datasets import check_datasets, register_dataset
from cdl_d2.d2.deeplab_backbone import build_latent_deeplab_backbone
from cdl_d2.d2.latent_mapper import LatentDatasetMapper, build_mapper
from cdl_d2.d2.rate_evaluation import RateEvaluator
from cdl_d2.d2.segmentor import CompressedSegmentor, TransferSegmentor
from cdl_d2.d2.trainer import Trainer, initialize_backbone
from cdl_d2.d2.transfer_rcnn import TransferRCNN

__all__ = [
    "CompressedClassifier",
    "CompressedRCNN",
    "CompressedSegmentor",
    "LatentDatasetMapper",
    "RateEvaluator",
    "SafeCheckpointer",
    "Trainer",
    "TransferClassifier",
    "TransferRCNN",
    "TransferSegmentor",
    "add_cdl_config",
    "build_codec",
    "build_latent_deeplab_backbone",
    "build_latent_resnet_backbone",
    "build_latent_resnet_fpn_backbone",
    "build_mapper",
    "check_datasets",
    "initialize_backbone",
    "register_dataset",
]
