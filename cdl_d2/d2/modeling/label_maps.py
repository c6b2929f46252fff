"""Label maps of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cdl_d2.errors import CdlError


def padded_labels(
    head: nn.Module,
    samples: Sequence[dict[str, Any]],
    image_sizes: Sequence[tuple[int, int]],
    padded_size: tuple[int, int],
    device: torch.device,
) -> torch.Tensor:
    """Stack label maps to N x H' x W', padded with the label to ignore.

    Args:
        head: semantic segmentation head of Detectron2.
        samples: N samples with `sem_seg`, H x W labels.
        image_sizes: (H, W) of each image.
        padded_size: (H', W') in pixels.
        device: of the result.

    Raises:
        CdlError: if a label map has another size than its image, or a label that is no class of
            the head.
    """
    (height, width), padded = padded_size, []
    classes = head.predictor.out_channels
    for sample, size in zip(samples, image_sizes, strict=True):
        labels = sample["sem_seg"].to(device).long()
        if tuple(labels.shape) != tuple(size):
            raise CdlError(
                f"a label map of {tuple(labels.shape)} pixels for an image of {size}: both must "
                "be resized, cropped and flipped alike"
            )
        wrong = labels[(labels != head.ignore_value) & ((labels < 0) | (labels >= classes))]
        if len(wrong):
            raise CdlError(
                f"label {int(wrong[0])} is neither in 0..{classes - 1} nor the label to ignore "
                f"({head.ignore_value}): set MODEL.SEM_SEG_HEAD.NUM_CLASSES or IGNORE_VALUE"
            )
        margin = (0, width - labels.shape[1], 0, height - labels.shape[0])
        padded.append(F.pad(labels, margin, value=head.ignore_value))
    return torch.stack(padded)
