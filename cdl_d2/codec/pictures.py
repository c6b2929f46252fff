"""Pictures of a latent: bits per latent position, channels and predicted scales."""

from __future__ import annotations

import numpy as np
import torch

from cdl_d2.codec.codec import Codec
from cdl_d2.codec.latent import Latent
from cdl_d2.errors import imports_of_extra

with imports_of_extra("report"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

GRID = (4, 6)  # rows and columns of channels


def latent_figure(codec: Codec, image: np.ndarray) -> Figure:
    """Plot an image, its bits per latent position, its strongest channels and their scales.

    Scales are left out for a codec that predicts none.

    Args:
        codec: encodes the image.
        image: H x W x 3, uint8 RGB.
    """
    device = next(codec.parameters()).device
    pixels = torch.as_tensor(image.copy(), device=device).permute(2, 0, 1).float() / 255
    latent = codec.encode(pixels, with_scales=codec.predicts_scales).to("cpu")
    # All channels by decreasing standard deviation over the image.
    channels = latent.cells.flatten(1).std(dim=1).argsort(descending=True).tolist()
    grids = 1 + codec.predicts_scales
    figure = Figure(figsize=(6 + 8 * grids, 8), layout="constrained")
    left, *right = figure.subfigures(1, 1 + grids, width_ratios=(1, *[1.6] * grids))
    top, bottom = left.subplots(2, 1)
    top.imshow(image)
    top.set_title(f"{image.shape[1]} x {image.shape[0]} pixels, {latent.bits_per_pixel:.3f} bpp")
    left.colorbar(show_bits(bottom, latent), ax=bottom)
    bottom.set_title("estimated bits per latent position (16 x 16 pixels)")
    top.axis("off")
    right[0].suptitle("channels of largest standard deviation")
    for axis, channel in zip(right[0].subplots(*GRID).flat, channels, strict=False):
        limit = float(latent.cells[channel].abs().max()) or 1.0
        axis.imshow(latent.cells[channel], cmap="coolwarm", vmin=-limit, vmax=limit)
        axis.set_title(f"channel {channel}", fontsize=8)
        axis.axis("off")
    if codec.predicts_scales:
        right[1].suptitle("their predicted standard deviations (scales)")
        scales = latent.crop(latent.scales_hat)
        for axis, channel in zip(right[1].subplots(*GRID).flat, channels, strict=False):
            axis.imshow(scales[channel], cmap="viridis", vmin=0)
            axis.set_title(f"{channel}: up to {float(scales[channel].max()):.2f}", fontsize=8)
            axis.axis("off")
    return figure


def show_bits(axis: Axes, latent: Latent) -> AxesImage:
    """Draw the estimated bits of each latent position."""
    axis.axis("off")
    return axis.imshow(latent.crop(latent.bits), cmap="inferno")
