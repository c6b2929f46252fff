"""Students: meta-architectures that are distilled from a frozen teacher, by MODEL.TRANSFER."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import ImageList
from torch import nn

from cdl_d2.errors import CdlError
from cdl_d2.transfer.teacher_batch import batch_for_teacher
from cdl_d2.transfer.teacher_mixin import TeacherMixin
from cdl_d2.transfer.terms import TransferTerms


class Student(TeacherMixin):
    """TeacherMixin for a CompressedModel: transfer losses from a config, the teacher's batch."""

    @staticmethod
    def build_transfer(cfg: CfgNode) -> TransferTerms:
        """Return the transfer losses of a config."""
        raise NotImplementedError

    @classmethod
    def needs_image(cls, cfg: CfgNode) -> bool:
        """Return True if training needs the original `image`, for the teacher."""
        return bool(cls.build_transfer(cfg).terms)

    def teacher_batch(
        self, teacher: nn.Module, samples: Sequence[dict[str, Any]], images: ImageList
    ) -> torch.Tensor:
        """Return the images of samples as the teacher reads them, padded as the student's batch.

        Raises:
            CdlError: if a sample has no image, or one of another size than the student's.
        """
        swap = self.coded_input.channel_order != channel_order_of(teacher)

        def normalize(image: torch.Tensor) -> torch.Tensor:
            pixels = image.to(teacher.device)
            return ((pixels.flip(0) if swap else pixels) - teacher.pixel_mean) / teacher.pixel_std

        padded_size = self.coded_input.padded_size(images.tensor)
        return batch_for_teacher(samples, images.image_sizes, padded_size, normalize)


def transfer_options(
    cfg: CfgNode, features: Mapping[str, float], outputs: Collection[str] = ()
) -> dict[str, Any]:
    """Return the arguments of a TransferTerms for MODEL.TRANSFER.

    Args:
        cfg: a student's config.
        features: terms that compare features, and the share of FEATURES.WEIGHT of each.
        outputs: terms that compare outputs, keys of MODEL.TRANSFER.OUTPUTS in lower case.
    """
    keys, weights = cfg.MODEL.TRANSFER, {}
    if keys.FEATURES.ENABLED:
        weights |= {term: keys.FEATURES.WEIGHT * share for term, share in features.items()}
    if keys.OUTPUTS.ENABLED:
        weights |= {term: keys.OUTPUTS[term.upper()] for term in outputs}
    return {"weight": keys.WEIGHT, "weights": weights, "distance": keys.DISTANCE}


def channel_order_of(network: nn.Module) -> str:
    """Return an RGB model's order of channels, `BGR` or `RGB`.

    This is its `channel_order`, or the `input_format` of Detectron2's detectors.

    Raises:
        CdlError: if it has neither attribute.
    """
    for name in ("channel_order", "input_format"):
        if getattr(network, name, None):
            return getattr(network, name)
    raise CdlError(
        f"the teacher, a {type(network).__name__}, does not say the order of its channels: set its "
        "attribute `channel_order` to BGR or RGB"
    )
