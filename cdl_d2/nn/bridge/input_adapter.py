"""Base of the input adapters (bridges), whose output fits the images of a padded batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from cdl_d2.codec.latent import STRIDE
from cdl_d2.errors import CdlError

Sizes = Sequence[Sequence[int]]  # rows and columns, or height and width, of each image


class InputAdapter(nn.Module):
    """Module from latents to features, which are cropped to a batch, and filled beyond its images.

    A subclass has `input` and `layers`, the first layers of a decoder.

    Attributes:
        margin: latent positions below and right of the batch's images, whose features are cropped.
        grids: rows and columns of each latent in the next batch, beyond which it is padded; None if
            none is.
        image_sizes: (H, W) in pixels of the images in the next batch, beyond which its features are
            constant; None for features of the latents everywhere. One batch uses both up.
    """

    margin: int = 0
    grids: Sizes | None = None
    image_sizes: Sizes | None = None

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Return (H, W) of the replaced layer's output for an image of height x width pixels."""
        raise NotImplementedError

    def run_on_grids(self, y_hat: torch.Tensor, stride: int) -> torch.Tensor:
        """Run `layers` on each latent without its padding, and pad the features; can be traced.

        A decoder pads its features with zeros at the end of the coded grid, too.

        Args:
            y_hat: N x M x h x w.
            stride: of the features, in pixels.
        """
        grids, self.grids = self.grids, None
        if len({tuple(grid) for grid in grids}) > 1:
            pairs = zip(y_hat.split(1), grids, strict=True)
            return torch.cat([self._run_on_grid(*pair, stride) for pair in pairs])
        return self._run_on_grid(y_hat, grids[0], stride)

    def _run_on_grid(self, y_hat: torch.Tensor, grid: Sequence[int], stride: int) -> torch.Tensor:
        feature = self.layers(self.input(y_hat[:, :, : grid[0], : grid[1]]))
        rows, columns = (STRIDE * side // stride for side in y_hat.shape[2:])
        return F.pad(feature, (0, columns - feature.shape[3], 0, rows - feature.shape[2]))

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


def announce_images(
    network: nn.Module, latents: Sequence[torch.Tensor], sizes: Sizes | None = None
) -> None:
    """Tell a network's bridge the sizes of the latents and images in the next batch.

    Args:
        network: the network.
        latents: M x h x w each, before they are padded or cropped to the batch.
        sizes: (H, W) of each image in pixels, to fill what is beyond it; default not to.
    """
    for module in network.modules():
        if isinstance(module, InputAdapter):
            module.grids = [latent.shape[1:] for latent in latents]
            module.image_sizes = sizes
