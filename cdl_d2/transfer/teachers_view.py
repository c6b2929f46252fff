"""What a pixel teacher sees of the images that a student sees as latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from cdl_d2.errors import CdlError


def teachers_view(
    items: Sequence[dict[str, Any]],
    image_sizes: Sequence[tuple[int, int]],
    padded_size: tuple[int, int],
    normalize: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """The items' images, normalized, then padded as the student's batch is: N x 3 x H x W.

    Args:
        items: each with `image`, 3 x H x W in 0..255.
        image_sizes, padded_size: what the student sees, (H, W) in pixels of each image and of the
            padded batch.
        normalize: from an item's image to the teacher's input, on its device.

    Raises:
        CdlError: if an item has no image, or one of another size than the student sees.
    """
    views = []
    for item, size in zip(items, image_sizes, strict=True):
        if "image" not in item:
            raise CdlError(
                "the teacher looks at images, and a batch item has none: keep 'image' beside "
                "'latent' while training with transfer"
            )
        height, width = item["image"].shape[-2:]
        if (height, width) != tuple(size):
            raise CdlError(
                f"the teacher's image has {height}x{width} pixels, the student's "
                f"{size[0]}x{size[1]}: both must see one geometry"
            )
        room = (0, padded_size[1] - width, 0, padded_size[0] - height)
        views.append(F.pad(normalize(item["image"]), room))
    return torch.stack(views)
