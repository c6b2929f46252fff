"""Geometric variants of an image: augmentations that happen before encoding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from cdl_d2.errors import CdlError


@dataclass(frozen=True)
class Variant:
    """An image resized and perhaps flipped, as Detectron2's ResizeShortestEdge and RandomFlip do.

    Attributes:
        short_edge: pixels of the shorter side; 0 keeps the size.
        max_size: the longer side is at most this; the shorter one shrinks with it.
        flip: whether it is flipped left to right, after resizing.
    """

    short_edge: int = 0
    max_size: int = 1333
    flip: bool = False

    def __post_init__(self) -> None:
        if self.short_edge < 0 or (self.short_edge and self.max_size < 1):
            raise CdlError(
                f"an image cannot be resized to a short edge of {self.short_edge} pixels and at "
                f"most {self.max_size}"
            )
        if not self.short_edge:
            object.__setattr__(self, "max_size", 0)  # says nothing where nothing is resized

    def __str__(self) -> str:
        size = f"short edge {self.short_edge} (at most {self.max_size})" if self.short_edge else ""
        return f"{size or 'original size'}{', flipped' if self.flip else ''}"

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) of the variant of an image of height x width pixels."""
        if not self.short_edge:
            return height, width
        scale = self.short_edge / min(height, width)
        new_height, new_width = (
            (self.short_edge, scale * width)
            if height < width
            else (scale * height, self.short_edge)
        )
        longest = max(new_height, new_width)
        if longest > self.max_size:
            shrink = self.max_size / longest
            new_height, new_width = new_height * shrink, new_width * shrink
        return max(int(new_height + 0.5), 1), max(int(new_width + 0.5), 1)

    def apply(self, image: torch.Tensor) -> torch.Tensor:
        """The variant of an image, 3 x H x W, uint8; bilinear, by Pillow."""
        height, width = self.size(*image.shape[1:])
        if (height, width) != tuple(image.shape[1:]):
            picture = Image.fromarray(image.movedim(0, -1).numpy())
            resized = np.array(picture.resize((width, height), Image.Resampling.BILINEAR))
            image = torch.from_numpy(resized).movedim(-1, 0)
        return (image.flip(2) if self.flip else image).contiguous()
