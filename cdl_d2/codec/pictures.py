"""What a latent looks like, and what a codec does at each rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

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
    """The image, the bits that each of its latent cells costs, its strongest channels, and beside
    them, of a codec that predicts them, the scales of the same channels.

    Args:
        image: H x W x 3, uint8 RGB.
    """
    device = next(codec.parameters()).device
    pixels = torch.as_tensor(image.copy(), device=device).permute(2, 0, 1).float() / 255
    latent = codec.encode(pixels, with_scales=codec.predicts_scales).to("cpu")
    grids = 1 + codec.predicts_scales
    figure = Figure(figsize=(6 + 8 * grids, 8), layout="constrained")
    left, right, *beside = figure.subfigures(1, 1 + grids, width_ratios=(1, *[1.6] * grids))
    top, bottom = left.subplots(2, 1)
    top.imshow(image)
    top.set_title(f"{image.shape[1]} x {image.shape[0]} pixels, {latent.bits_per_pixel:.3f} bpp")
    left.colorbar(show_bits(bottom, latent), ax=bottom)
    bottom.set_title("estimated bits per cell of 16 x 16 pixels")
    top.axis("off")
    show_channels(list(right.subplots(*GRID).flat), latent)
    right.suptitle("the channels that vary most")
    for part in beside:
        show_scales(list(part.subplots(*GRID).flat), latent)
        part.suptitle("the deviations that the entropy model predicts for them")
    return figure


def show_bits(axis: Axes, latent: Latent) -> AxesImage:
    """Draw the estimated bits of each cell."""
    axis.axis("off")
    return axis.imshow(latent.crop(latent.bits), cmap="inferno")


def show_channels(axes: Sequence[Axes], latent: Latent) -> None:
    """Draw the channels that vary most, one on each of the axes."""
    for axis, channel in zip(axes, strongest_channels(latent), strict=False):
        cells = latent.cells[channel]
        limit = float(cells.abs().max()) or 1.0
        axis.imshow(cells, cmap="coolwarm", vmin=-limit, vmax=limit)
        axis.set_title(f"channel {channel}", fontsize=8)
        axis.axis("off")


def show_scales(axes: Sequence[Axes], latent: Latent) -> None:
    """Draw the predicted deviations of the channels that show_channels draws, each from 0 to its
    largest."""
    scales = latent.crop(latent.scales_hat)
    for axis, channel in zip(axes, strongest_channels(latent), strict=False):
        axis.imshow(scales[channel], cmap="viridis", vmin=0)
        axis.set_title(f"{channel}: up to {float(scales[channel].max()):.2f}", fontsize=8)
        axis.axis("off")


def strongest_channels(latent: Latent) -> list[int]:
    """All channels, those first that vary most over the image."""
    return latent.cells.flatten(1).std(dim=1).argsort(descending=True).tolist()


def rate_distortion_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """PSNR and MS-SSIM against the bits per pixel of files, a curve for each codec, as figure 7 of
    *Learning in Compressed Domain via Knowledge Transfer*.

    MS-SSIM is drawn as -10 log10(1 - MS-SSIM), in dB, as usual, since its values crowd below 1.

    Args:
        rows: means over images, as evaluate_codec gives them.
    """
    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots(1, 2)
    for name in dict.fromkeys(row["codec"] for row in rows):
        curve = sorted((row for row in rows if row["codec"] == name), key=itemgetter("bpp"))
        axes[0].plot([r["bpp"] for r in curve], [r["PSNR (dB)"] for r in curve], "o-", label=name)
        similar = [r for r in curve if r["MS-SSIM"] is not None]  # none of small images
        decibels = [-10 * math.log10(max(1 - r["MS-SSIM"], 1e-12)) for r in similar]
        axes[1].plot([r["bpp"] for r in similar], decibels, "o-", label=name)
    for axis, label in zip(axes, ("PSNR (dB)", "MS-SSIM (dB)"), strict=True):
        axis.set(xlabel="bits per pixel", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].legend()
    return figure
