"""R-CNN on latents that is distilled from a frozen RGB R-CNN.

Sections 3.3.2 and 5 of *Learning in Compressed Domain via Knowledge Transfer*.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from cdl_d2.d2.modeling.detector_outputs import StudentStep
from cdl_d2.d2.modeling.meta_arch.compressed_rcnn import CompressedPanopticFPN, CompressedRCNN
from cdl_d2.d2.modeling.student import Student, channel_order_of, transfer_options
from cdl_d2.d2.modeling.teacher import build_teacher
from cdl_d2.d2.modeling.transfer_checks import check_detectors, check_student
from cdl_d2.transfer import OUTPUT_TERMS, DetectorTransfer


@META_ARCH_REGISTRY.register()
class TransferRCNN(Student, CompressedRCNN):
    """CompressedRCNN with the transfer losses of formula (4) in training.

    The teacher is no part of the model: checkpoints load, and inference runs, without it.
    """

    @configurable
    def __init__(
        self,
        *,
        teacher: nn.Module | Callable[[], nn.Module],
        transfer: DetectorTransfer,
        task_weight: float = 1.0,
        **kwargs,
    ):
        """Initialize the student.

        Args:
            teacher: a GeneralizedRCNN on images, or a function that builds one; it is frozen.
            transfer: transfer losses.
            task_weight: weight of the detector's own losses.
            kwargs: arguments of CompressedRCNN.

        Raises:
            CdlError: if the student lacks heads whose outputs are compared.
        """
        super().__init__(**kwargs)
        self._transfer, self._task_weight = transfer, task_weight
        self._strides = {name: spec.stride for name, spec in self.backbone.output_shape().items()}
        check_student(self, transfer)
        self.set_teacher(teacher, enabled=bool(transfer.terms))

    @classmethod
    def from_config(cls, cfg):
        return {
            **super().from_config(cfg),
            "task_weight": cfg.MODEL.TRANSFER.TASK_WEIGHT,
            "teacher": partial(build_teacher, cfg),
            "transfer": cls.build_transfer(cfg),
        }

    @staticmethod
    def build_transfer(cfg: CfgNode) -> DetectorTransfer:
        """Return the losses of MODEL.TRANSFER."""
        keys = cfg.MODEL.TRANSFER
        return DetectorTransfer(
            **transfer_options(cfg, {"features": 1.0}, OUTPUT_TERMS),
            ignore_padding=keys.IGNORE_PADDING,
            anchors=keys.ANCHORS,
            masks=keys.MASKS,
            heads=keys.HEADS,
        )

    def check_teacher(self, teacher: nn.Module) -> None:
        """Raise CdlError unless the outputs of student and teacher can be compared."""
        channel_order_of(teacher)
        check_detectors(self, teacher, self._transfer)

    def forward(self, batched_inputs: list[dict[str, Any]]):
        """Return what CompressedRCNN.forward returns, in training with transfer losses.

        There is a `loss_transfer_<term>` for each term of formulas (2) and (3) with a weight. Items
        then need the original `image`.
        """
        if not (self.training and self.uses_teacher):
            return super().forward(batched_inputs)
        step = StudentStep(self, self._transfer)
        with step.record():
            losses = super().forward(batched_inputs)
        for name in losses:
            losses[name] = self._task_weight * losses[name]
        teacher = self.teacher
        with torch.no_grad():
            pyramid = teacher.backbone(self.teacher_batch(teacher, batched_inputs, step.images))
            expected = step.outputs_of(teacher, pyramid)
        if self._transfer.heads == "teacher":
            outputs = step.outputs_of(teacher, step.pyramid)
        else:
            outputs = step.student_outputs()
        return losses | self._transfer(outputs, expected, step.images.image_sizes, self._strides)


@META_ARCH_REGISTRY.register()
class TransferPanopticFPN(TransferRCNN, CompressedPanopticFPN):
    """CompressedPanopticFPN that is distilled as a TransferRCNN; label maps are not compared."""
