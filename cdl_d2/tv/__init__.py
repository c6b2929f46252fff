"""Mask R-CNN on latents with torchvision's detectors, for use without Detectron2."""

from cdl_d2.tv.checkpoint import load_detector, load_rgb_detector, save_detector
from cdl_d2.tv.coco_items import CocoItems
from cdl_d2.tv.compressed_mask_rcnn import CompressedMaskRCNN
from cdl_d2.tv.detector_config import (
    MODELS,
    Architecture,
    DetectorConfig,
    build_detector,
)
from cdl_d2.tv.evaluation import evaluate
from cdl_d2.tv.schedule import Schedule
from cdl_d2.tv.trainer import Trainer
from cdl_d2.tv.transfer_mask_rcnn import TransferMaskRCNN

__all__ = [
    "MODELS",
    "Architecture",
    "CocoItems",
    "CompressedMaskRCNN",
    "DetectorConfig",
    "Schedule",
    "Trainer",
    "TransferMaskRCNN",
    "build_detector",
    "evaluate",
    "load_detector",
    "load_rgb_detector",
    "save_detector",
]
