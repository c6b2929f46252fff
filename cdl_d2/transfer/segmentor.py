"""Transfer loss of a segmentation model.

Formula (3) of *Semantic Segmentation in Learned Compressed Domain*.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cdl_d2.transfer.features import feature_transfer_loss
from cdl_d2.transfer.terms import TransferTerms


class SegmentorTransfer(TransferTerms):
    """Term `res2`, the distance of the features at the output of the replaced layers."""

    KNOWN = frozenset({"res2"})

    def __call__(
        self,
        student_feature: torch.Tensor,
        teacher_feature: torch.Tensor,
        image_sizes: Sequence[tuple[int, int]],
        stride: int,
    ) -> dict[str, torch.Tensor]:
        """Return `loss_transfer_res2`, a weighted scalar.

        Args:
            student_feature: N x C x H/stride x W/stride.
            teacher_feature: feature of the same shape.
            image_sizes: (H, W) of each image in pixels; positions outside are left out.
            stride: pixels per position, along each side.

        Raises:
            CdlError: if the features differ in shape.
        """
        distance = feature_transfer_loss(
            {"res2": student_feature},
            {"res2": teacher_feature},
            distance=self.distance,
            image_sizes=image_sizes,
            strides={"res2": stride},
        )
        return self.weighted({"res2": distance})
