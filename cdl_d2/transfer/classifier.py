"""The transfer losses of a classifier (formula 1 of *Learning in Compressed Domain via Knowledge
Transfer*)."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from cdl_d2.transfer.features import feature_transfer_loss
from cdl_d2.transfer.outputs import class_transfer_loss
from cdl_d2.transfer.terms import TransferTerms

STAGES = ("c4", "c5")


class ClassifierTransfer(TransferTerms):
    """Distances of the features `c4` and `c5`, and the divergence D(teacher || student) of the
    distributions over classes, `class`; arguments as TransferTerms."""

    KNOWN = frozenset({*STAGES, "class"})

    @property
    def compares_features(self) -> bool:
        """Whether features are compared, and must lie over each other."""
        return bool(self.terms.intersection(STAGES))

    def __call__(
        self,
        student_features: Mapping[str, torch.Tensor],
        teacher_features: Mapping[str, torch.Tensor],
        student_logits: torch.Tensor,
        teacher_logits: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """`loss_transfer_<term>`, weighted scalars.

        Args:
            student_features, teacher_features: stage to N x C x H x W, before the last ReLU.
            student_logits, teacher_logits: N x K.

        Raises:
            CdlError: if features or logits differ in shape.
        """
        losses = {}
        for stage in [stage for stage in STAGES if stage in self.terms]:
            ours, theirs = {stage: student_features[stage]}, {stage: teacher_features[stage]}
            losses[stage] = feature_transfer_loss(ours, theirs, distance=self.distance)
        if "class" in self.terms:
            losses["class"] = class_transfer_loss(student_logits, teacher_logits)
        return self.weighted(losses)
