"""Base of the input adapters (bridges), whose output fits the images of a padded batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cdl_d2.codec.latent import STRIDE
from cdl_d2.errors import CdlError

Sizes = Sequence[tuple[int, int]]  # (H, W) of each image in pixels


class InputAdapter(nn.Module):
    """Module from latents to features, which are cropped to a batch, and filled beyond its images.

    Attributes:
        margin: latent positions below and right of the batch's images, whose features are cropped.
        image_sizes: (H, W) in pixels of the images in the next batch, beyond which its features are
            constant; None for features of the latents everywhere. One batch uses them up.
    """

    margin: int = 0
    image_sizes: Sizes | None = None

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Return (H, W) of the replaced layer's output for an image of height x width pixels."""
        raise NotImplementedError

    def fit_batch(
        self, feature: torch.Tensor, grid: Sequence[int], stride: int, outside: torch.Tensor
    ) -> torch.Tensor:
        """Return features without the margin, with a constant beyond each image; can be traced.

        Args:
            feature: N x C x h x w, of all latent positions.
            grid: rows and columns of latent positions.
            stride: of the feature, in pixels.
            outside: C, or one value; the constant.
        """
        rows, columns = (STRIDE * (side - self.margin) // stride for side in grid)
        feature = feature[:, :, :rows, :columns]
        sizes, self.image_sizes = self.image_sizes, None
        if sizes is None:
            return feature
        sides = [self.output_size(*size) for size in sizes]
        if not torch.jit.is_tracing() and all(h >= rows and w >= columns for h, w in sides):
            return feature
        row, column = (torch.arange(side, device=feature.device) for side in feature.shape[2:])
        is_inside = [(row < height)[:, None] & (column < width) for height, width in sides]
        outside = outside.to(feature.dtype)[:, None, None]
        return torch.where(torch.stack(is_inside)[:, None], feature, outside)


def set_margin(network: nn.Module, margin: int) -> None:
    """Set the margin of a network's bridge; raise CdlError for one without a bridge to crop it."""
    bridges = [module for module in network.modules() if isinstance(module, InputAdapter)]
    if margin and not bridges:
        raise CdlError(f"a {type(network).__name__} without a bridge cannot read a margin")
    for bridge in bridges:
        bridge.margin = margin


def set_image_sizes(network: nn.Module, sizes: Sizes) -> None:
    """Tell a network's bridge the (H, W) in pixels of the images in the next batch."""
    for module in network.modules():
        if isinstance(module, InputAdapter):
            module.image_sizes = sizes
