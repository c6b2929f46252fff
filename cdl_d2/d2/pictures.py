"""Pictures: detections drawn on an image, and what a latent looks like."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.structures import Instances
from detectron2.utils.visualizer import ColorMode, Visualizer
from matplotlib.figure import Figure

from cdl_d2.codec import Codec

GRID = (4, 6)  # rows and columns of channels


def draw_detections(
    image: np.ndarray, instances: Instances, metadata, threshold: float
) -> np.ndarray:
    """Boxes, masks and scores above `threshold` drawn on an H x W x 3 uint8 RGB image."""
    instances = instances.to("cpu")
    visualizer = Visualizer(image, metadata, instance_mode=ColorMode.IMAGE)
    shown = instances[instances.scores >= threshold]
    return visualizer.draw_instance_predictions(shown).get_image()


def latent_figure(codec: Codec, image: np.ndarray) -> Figure:
    """The image, the bits that each of its latent cells costs, and its strongest channels.

    Args:
        image: H x W x 3, uint8 RGB.
    """
    device = next(codec.parameters()).device
    pixels = torch.as_tensor(image.copy(), device=device).permute(2, 0, 1).float() / 255
    latent = codec.encode(pixels)
    cells = latent.cells.cpu()
    height, width = cells.shape[1:]
    strongest = cells.flatten(1).std(dim=1).argsort(descending=True)[: GRID[0] * GRID[1]]

    figure = Figure(figsize=(14, 8), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.6))
    top, bottom = left.subplots(2, 1)
    top.imshow(image)
    top.set_title(f"{image.shape[1]} x {image.shape[0]} pixels, {latent.bits_per_pixel:.3f} bpp")
    shown = bottom.imshow(latent.bits[:height, :width].cpu(), cmap="inferno")
    bottom.set_title("estimated bits per cell of 16 x 16 pixels")
    left.colorbar(shown, ax=bottom)
    for axis in (top, bottom):
        axis.axis("off")
    for axis, channel in zip(right.subplots(*GRID).flat, strongest.tolist(), strict=False):
        limit = float(cells[channel].abs().max()) or 1.0
        axis.imshow(cells[channel], cmap="coolwarm", vmin=-limit, vmax=limit)
        axis.set_title(f"channel {channel}", fontsize=8)
    for axis in right.axes:
        axis.axis("off")
    right.suptitle("the channels that vary most")
    return figure
