"""What a latent looks like."""

from __future__ import annotations

from collections.abc import Sequence

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
    """The image, the bits that each of its latent cells costs, and its strongest channels.

    Args:
        image: H x W x 3, uint8 RGB.
    """
    device = next(codec.parameters()).device
    pixels = torch.as_tensor(image.copy(), device=device).permute(2, 0, 1).float() / 255
    latent = codec.encode(pixels).to("cpu")
    figure = Figure(figsize=(14, 8), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.6))
    top, bottom = left.subplots(2, 1)
    top.imshow(image)
    top.set_title(f"{image.shape[1]} x {image.shape[0]} pixels, {latent.bits_per_pixel:.3f} bpp")
    left.colorbar(show_bits(bottom, latent), ax=bottom)
    bottom.set_title("estimated bits per cell of 16 x 16 pixels")
    top.axis("off")
    show_channels(list(right.subplots(*GRID).flat), latent)
    right.suptitle("the channels that vary most")
    return figure


def show_bits(axis: Axes, latent: Latent) -> AxesImage:
    """Draw the estimated bits of each cell."""
    height, width = latent.cells.shape[1:]
    axis.axis("off")
    return axis.imshow(latent.bits[:height, :width], cmap="inferno")


def show_channels(axes: Sequence[Axes], latent: Latent) -> None:
    """Draw the channels that vary most, one on each of the axes."""
    cells = latent.cells
    strongest = cells.flatten(1).std(dim=1).argsort(descending=True)[: len(axes)]
    for axis, channel in zip(axes, strongest.tolist(), strict=False):
        limit = float(cells[channel].abs().max()) or 1.0
        axis.imshow(cells[channel], cmap="coolwarm", vmin=-limit, vmax=limit)
        axis.set_title(f"channel {channel}", fontsize=8)
        axis.axis("off")
