"""The transfer loss of a segmentor (formula 3 of *Semantic Segmentation in Learned Compressed
Domain*)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cdl_d2.transfer.features import feature_transfer_loss
from cdl_d2.transfer.terms import TransferTerms


class SegmentorTransfer(TransferTerms):
    """The distance of `res2`, the feature that replaced layers gave; arguments as TransferTerms."""

    KNOWN = frozenset({"res2"})

    def __call__(
        self,
        student_feature: torch.Tensor,
        teacher_feature: torch.Tensor,
        image_sizes: Sequence[tuple[int, int]],
        stride: int,
    ) -> dict[str, torch.Tensor]:
        """`loss_transfer_res2`, a weighted scalar.

        Args:
            student_feature, teacher_feature: N x C x H/stride x W/stride.
            image_sizes: (H, W) of each image in pixels; only cells that it covers are compared.
            stride: pixels a side of a cell.

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
