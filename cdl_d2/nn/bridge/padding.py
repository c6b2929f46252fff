"""Padding of feature maps of images that differ in size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

Sizes = Sequence[tuple[int, int]]  # (H, W) of each image in pixels


def fill_outside(
    feature: torch.Tensor, sides: Iterable[tuple[int, int]], value: torch.Tensor | None = None
) -> torch.Tensor:
    """Return a feature map with a constant in the positions outside of images.

    Args:
        feature: N x C x h x w.
        sides: rows and columns that each image covers, from the upper left corner on.
        value: C; default zeros.
    """
    is_inside = torch.zeros_like(feature[:, :1], dtype=torch.bool)
    for inside, (rows, columns) in zip(is_inside, sides, strict=True):
        inside[:, :rows, :columns] = True
    value = feature.new_zeros(1) if value is None else value
    return torch.where(is_inside, feature, value[:, None, None])
