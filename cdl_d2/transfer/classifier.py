"""The transfer losses of a classifier (formula 1 of the paper)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from cdl_d2.errors import CdlError
from cdl_d2.transfer.features import DISTANCES, feature_transfer_loss
from cdl_d2.transfer.outputs import class_transfer_loss


class ClassifierTransfer:
    """lambda * (weighted feature distances + KL divergence of the output distributions).

    Args:
        weight: lambda.
        features: weight of each compared stage, such as {"c5": 1.0}; one of weight 0 is left out.
        output: weight of the divergence D(teacher || student).
        distance: `mse` or `l2norm`, see feature_transfer_loss.

    Raises:
        ValueError: for an unknown distance.
    """

    def __init__(
        self,
        weight: float = 1.0,
        features: Mapping[str, float] | None = None,
        output: float = 1.0,
        distance: str = "mse",
    ):
        if not 0 <= weight < math.inf:
            raise CdlError(f"weight {weight} of all transfer losses is not a number from 0 up")
        if distance not in DISTANCES:
            raise CdlError(f"transfer distance {distance!r} is not one of {DISTANCES}")
        features = {"c5": 1.0} if features is None else features
        self._features = {name: weight * w for name, w in features.items() if weight * w}
        self._output, self._distance = weight * output, distance

    @property
    def compares_features(self) -> bool:
        """Whether features are compared, and must lie over each other."""
        return bool(self._features)

    @property
    def active(self) -> bool:
        """Whether anything is compared."""
        return bool(self._features or self._output)

    def __call__(
        self,
        student_features: Mapping[str, torch.Tensor],
        teacher_features: Mapping[str, torch.Tensor],
        student_logits: torch.Tensor,
        teacher_logits: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """`loss_transfer_class` and `loss_transfer_<stage>`, weighted scalars.

        Args:
            student_features, teacher_features: stage to N x C x H x W, before the last ReLU.
            student_logits, teacher_logits: N x K.

        Raises:
            ValueError: if features or logits differ in shape.
        """
        losses = {}
        for stage, weight in self._features.items():
            ours, theirs = {stage: student_features[stage]}, {stage: teacher_features[stage]}
            distance = feature_transfer_loss(ours, theirs, distance=self._distance)
            losses[f"loss_transfer_{stage}"] = weight * distance
        if self._output:
            divergence = class_transfer_loss(student_logits, teacher_logits)
            losses["loss_transfer_class"] = self._output * divergence
        return losses
