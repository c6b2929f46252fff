"""Joint training of a codec and several tasks.

The method is that of *Analysis on Compressed Domain: A Multi-Task Learning Approach*.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from cdl_d2.codec.learning.trainable import CodedImages
from cdl_d2.d2.modeling.meta_arch.joint_codec import JointCodec, JointTraining
from cdl_d2.d2.modeling.meta_arch.multitask import CompressedMultitask
from cdl_d2.errors import CdlError


@META_ARCH_REGISTRY.register()
class JointMultitask(JointCodec, CompressedMultitask):
    """Minimizes L_distortion + L_adversarial + L_rate + L_multitasks.

    CodecObjective defines the first three, TaskWeighting the last. Without tasks,
    MODEL.TASKS.NAMES (), only the codec is trained.
    """

    @configurable
    def __init__(self, *, joint_training: JointTraining, **kwargs):
        """Build the model.

        Args:
            joint_training: the trained codec, its losses and schedule.
            kwargs: arguments of CompressedMultitask, in domain `latent`.
        """
        super().__init__(**kwargs)
        self.set_joint_training(joint_training)

    @property
    def task_modules(self) -> Sequence[nn.Module]:
        return [self.backbone, self.heads, self.weighting]

    def forward(self, batched_inputs: list[dict[str, Any]]):
        """Return, in training, the losses of the tasks and of the codec.

        Training samples need `image`, all of one size.
        """
        if not self.training:
            return super().forward(batched_inputs)
        sizes = {tuple(item["image"].shape[1:]) for item in batched_inputs}
        if len(sizes) > 1:
            raise CdlError(
                f"a batch has images of several sizes, {sorted(sizes)}: set INPUT.CROP, and "
                "INPUT.MIN_SIZE_TRAIN to no less than the crop"
            )
        (size,) = sizes

        def task_losses(coded: CodedImages) -> dict[str, torch.Tensor]:
            pairs = zip(batched_inputs, coded.y_hat, strict=True)
            return self.task_losses(
                [item | {"latent": latent, "image_size": size} for item, latent in pairs]
            )

        return self.joint_losses(torch.stack([i["image"] for i in batched_inputs]), task_losses)
