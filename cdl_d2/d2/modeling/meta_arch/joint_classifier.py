"""A classifier whose codec learns with it (section 2 of the study of vision pipelines)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from cdl_d2.codec.learning.trainable import CodedImages
from cdl_d2.d2.modeling.meta_arch.classifier import CompressedClassifier
from cdl_d2.d2.modeling.meta_arch.joint_codec import JointCodec, Learning


@META_ARCH_REGISTRY.register()
class JointClassifier(JointCodec, CompressedClassifier):
    """Minimizes task * cross entropy + rate * bits per pixel + distortion, see CodecObjective."""

    @configurable
    def __init__(
        self,
        *,
        learning: Learning,
        task_weight: float,
        **kwargs,
    ):
        """
        Args:
            learning: of the codec, see JointCodec.
            task_weight: of the cross entropy.
            kwargs: those of CompressedClassifier, of domain `latent`.
        """
        super().__init__(**kwargs)
        self._task_weight = task_weight
        self.set_joint_training(learning)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {**super().from_config(cfg), "task_weight": cfg.MODEL.JOINT.TASK_WEIGHT}

    @property
    def task_networks(self) -> Sequence[nn.Module]:
        """What learns behind the codec."""
        return [self.network]

    def forward(self, batched_inputs: list[dict[str, Any]]):
        """In training `loss_cls` and the losses of the codec, see CodecObjective; items need
        `image` and `label`."""
        if not self.training:
            return super().forward(batched_inputs)

        def task_losses(coded: CodedImages) -> dict[str, torch.Tensor]:
            with_scales = self.coded_input.with_scales
            latents = [coded.y_hat, coded.scales_hat] if with_scales else [coded.y_hat]
            if self._augmentation is not None:
                latents = self._augmentation(latents, True)
            loss = F.cross_entropy(self.network(*latents), self.labels(batched_inputs))
            return {"loss_cls": self._task_weight * loss}

        return self.joint_losses(self._stack(batched_inputs, "image"), task_losses)
