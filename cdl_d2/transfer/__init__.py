"""Distillation: transfer losses as pure functions of tensors, and the frozen teacher.

The formulas are those of *Learning in Compressed Domain via Knowledge Transfer*.
"""

from cdl_d2.transfer.classifier import ClassifierTransfer
from cdl_d2.transfer.detector import (
    OUTPUT_TERMS,
    DetectorOutputs,
    DetectorTransfer,
    anchors_by_level,
    anchors_on_images,
)
from cdl_d2.transfer.features import DISTANCES, coverage_mask, feature_transfer_loss
from cdl_d2.transfer.outputs import (
    anchor_delta_transfer_loss,
    box_delta_transfer_loss,
    class_transfer_loss,
    mask_transfer_loss,
    objectness_transfer_loss,
    sigmoid_class_transfer_loss,
)
from cdl_d2.transfer.recorded_calls import (
    input_at,
    output,
    output_at,
    recorded_calls,
    recorded_modules,
)
from cdl_d2.transfer.segmentor import SegmentorTransfer
from cdl_d2.transfer.teacher_batch import batch_for_teacher
from cdl_d2.transfer.teacher_mixin import TeacherMixin

__all__ = [
    "DISTANCES",
    "OUTPUT_TERMS",
    "ClassifierTransfer",
    "DetectorOutputs",
    "DetectorTransfer",
    "SegmentorTransfer",
    "TeacherMixin",
    "anchor_delta_transfer_loss",
    "anchors_by_level",
    "anchors_on_images",
    "batch_for_teacher",
    "box_delta_transfer_loss",
    "class_transfer_loss",
    "coverage_mask",
    "feature_transfer_loss",
    "input_at",
    "mask_transfer_loss",
    "objectness_transfer_loss",
    "output",
    "output_at",
    "recorded_calls",
    "recorded_modules",
    "sigmoid_class_transfer_loss",
]
