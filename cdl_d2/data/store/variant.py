"""Geometric variants of an image: augmentations applied before encoding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from cdl_d2.errors import CdlError


@dataclass(frozen=True)
class Variant:
    """Resizing and flipping of an image, as by Detectron2's ResizeShortestEdge and RandomFlip.

    Attributes:
        short_edge: length of the shorter side in pixels; 0 keeps the size.
        max_size: maximum length of the longer side in pixels, which takes precedence.
        flip: whether the image is flipped left to right, after resizing.
    """

    short_edge: int = 0
    max_size: int = 1333
    flip: bool = False

    def __post_init__(self) -> None:
        if self.short_edge < 0 or (self.short_edge and self.max_size < 1):
            raise CdlError(
                f"short edge {self.short_edge} and maximum size {self.max_size}: expected pixels"
            )
        if not self.short_edge:
            object.__setattr__(self, "max_size", 0)  # has no effect: keep equal variants equal

    def __str__(self) -> str:
        size = f"short edge {self.short_edge} (at most {self.max_size})" if self.short_edge else ""
        return f"{size or 'original size'}{', flipped' if self.flip else ''}"

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return (H, W) of the variant of an image of height x width pixels."""
        if not self.short_edge:
            return height, width
        scale = self.short_edge / min(height, width)
        new_height, new_width = (
            (self.short_edge, scale * width)
            if height < width
            else (scale * height, self.short_edge)
        )
        longer_side = max(new_height, new_width)
        if longer_side > self.max_size:
            shrink = self.max_size / longer_side
            new_height, new_width = new_height * shrink, new_width * shrink
        return max(int(new_height + 0.5), 1), max(int(new_width + 0.5), 1)

    def apply(self, image: torch.Tensor) -> torch.Tensor:
        """Return the variant of an image, 3 x H x W, uint8, resized bilinearly by Pillow."""
        height, width = self.size(*image.shape[1:])
        if (height, width) != tuple(image.shape[1:]):
            picture = Image.fromarray(image.movedim(0, -1).numpy())
            resized = np.array(picture.resize((width, height), Image.Resampling.BILINEAR))
            image = torch.from_numpy(resized).movedim(-1, 0)
        return (image.flip(2) if self.flip else image).contiguous()
