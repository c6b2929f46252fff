"""The batch of a teacher on images, aligned with its student's batch of latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from cdl_d2.errors import CdlError


def batch_for_teacher(
    samples: Sequence[dict[str, Any]],
    image_sizes: Sequence[tuple[int, int]],
    padded_size: tuple[int, int],
    normalize: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Normalize the samples' images and zero-pad them as the student's batch, N x 3 x H' x W'.

    Args:
        samples: samples with `image`, 3 x H x W in 0..255.
        image_sizes: (H, W) in pixels of each image of the student's batch.
        padded_size: (H', W') in pixels of the student's batch.
        normalize: function from an image to the teacher's input, on its device.

    Raises:
        CdlError: if a sample has no image, or one of another size than the student's.
    """
    images = []
    for sample, size in zip(samples, image_sizes, strict=True):
        if "image" not in sample:
            raise CdlError(
                "the teacher reads images, and a sample has none: keep 'image' beside "
                "'latent' in training with a teacher"
            )
        height, width = sample["image"].shape[-2:]
        if (height, width) != tuple(size):
            raise CdlError(
                f"the teacher's image has {height}x{width} pixels, the student's "
                f"{size[0]}x{size[1]}: both must have the same geometry"
            )
        padding = (0, padded_size[1] - width, 0, padded_size[0] - height)
        images.append(F.pad(normalize(sample["image"]), padding))
    return torch.stack(images)
