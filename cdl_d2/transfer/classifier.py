"""Transfer losses of a classifier.

Formula (1) of *Learning in Compressed Domain via Knowledge Transfer*.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from cdl_d2.transfer.features import feature_transfer_loss
from cdl_d2.transfer.outputs import class_transfer_loss
from cdl_d2.transfer.terms import TransferTerms

STAGES = ("c4", "c5")


class ClassifierTransfer(TransferTerms):
    """Terms `c4`, `c5` (features) and `class` (divergence D(teacher || student) of classes).

    Attributes:
        compares_features: feature maps are compared, so that they must be spatially aligned.
    """

    KNOWN = frozenset({*STAGES, "class"})

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.compares_features = not self.terms.isdisjoint(STAGES)

    def __call__(
        self,
        student_features: Mapping[str, torch.Tensor],
        teacher_features: Mapping[str, torch.Tensor],
        student_logits: torch.Tensor,
        teacher_logits: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Return `loss_transfer_<term>`, weighted scalars.

        Args:
            student_features: stage to N x C x H x W, before the last ReLU.
            teacher_features: as student_features.
            student_logits: N x K.
            teacher_logits: N x K.

        Raises:
            CdlError: if features or logits differ in shape.
        """
        losses = {
            stage: feature_transfer_loss(
                {stage: student_features[stage]},
                {stage: teacher_features[stage]},
                distance=self.distance,
            )
            for stage in STAGES
            if stage in self.terms
        }
        if "class" in self.terms:
            losses["class"] = class_transfer_loss(student_logits, teacher_logits)
        return self.weighted(losses)
