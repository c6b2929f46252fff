"""Joint training of a codec and a classifier (section 2 of the study of vision pipelines)."""

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
from cdl_d2.d2.modeling.meta_arch.joint_codec import JointCodec, JointTraining


@META_ARCH_REGISTRY.register()
class JointClassifier(JointCodec, CompressedClassifier):
    """Minimizes task * cross entropy + rate * bits per pixel + distortion (CodecObjective)."""

    @configurable
    def __init__(
        self,
        *,
        joint_training: JointTraining,
        task_weight: float,
        **kwargs,
    ):
        """Build the model.

        Args:
            joint_training: the trained codec, its losses and schedule.
            task_weight: weight of the cross entropy.
            kwargs: arguments of CompressedClassifier, in domain `latent`.
        """
        super().__init__(**kwargs)
        self._task_weight = task_weight
        self.set_joint_training(joint_training)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {**super().from_config(cfg), "task_weight": cfg.MODEL.JOINT.TASK_WEIGHT}

    @property
    def task_modules(self) -> Sequence[nn.Module]:
        return [self.network]

    def forward(self, batched_inputs: list[dict[str, Any]]):
        """Return, in training, `loss_cls` and the losses of the codec.

        Training samples need `image` and `label`.
        """
        if not self.training:
            return super().forward(batched_inputs)

        images = self._stack(batched_inputs, "image")

        def task_losses(coded: CodedImages) -> dict[str, torch.Tensor]:
            tensors, size = (coded.y_hat, coded.scales_hat), tuple(images.shape[2:])
            keys = self.coded_input.keys
            samples = [
                dict(zip(keys, pair, strict=False)) | {"image_size": size}
                for pair in zip(*tensors[: len(keys)], strict=True)
            ]
            loss = F.cross_entropy(self.logits(samples), self.labels(batched_inputs))
            return {"loss_cls": self._task_weight * loss}

        return self.joint_losses(images, task_losses)
