"""Graph of a classifier or segmentation model, from a latent or normalized pixels to logits."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from cdl_d2.codec.latent import STRIDE, coded_cells
from cdl_d2.conversion.image_network import ImageNetwork
from cdl_d2.conversion.latent_network import LatentNetwork
from cdl_d2.conversion.named_networks import CLASSIFICATION, DETECTION
from cdl_d2.conversion.network_model import NetworkModel
from cdl_d2.errors import CdlError
from cdl_d2.export.graphs import Graph, InputGrid, ModelGraphs, on_cpu

EXAMPLE_PIXELS = 256  # side of the traced image of a network that crops none
IN_PYTHON = {
    "classification": "a softmax of the logits",
    "segmentation": "bilinear resizing of the logits to the original image; the likeliest class",
}


def network_graphs(model: NetworkModel, size: tuple[int, int] | None = None) -> ModelGraphs:
    """Return `backbone`, from the input to logits.

    Args:
        model: in eval mode; copied to the CPU from another device.
        size: (H, W) in pixels of all images; None for any size.

    Raises:
        CdlError: for a detector.
    """
    config = model.config
    if config.task == DETECTION:
        raise CdlError(
            f"{config.network} is a detector, whose bridge takes sizes that a graph cannot leave "
            "open: of converted networks, classifiers and segmentation models can be exported; so "
            "can detectors of Detectron2, and those trained with torchvision by this package"
        )
    model, crop = on_cpu(model), config.preprocessing.crop
    usual = (crop, crop) if crop else None
    coded_input, side = model.coded_input, crop or EXAMPLE_PIXELS
    # timm's layers that pad by their input's size: tracing them for any size would take minutes.
    pads_by_size = any(type(m).__name__.endswith("Same") for m in model.modules())
    if pads_by_size or coded_input.margin:  # latents alone do not say how many pixels they cover
        size = size or usual
    grid = InputGrid(coded_input, coded_input.stride, (side, side + 32), size)
    logits = _Logits(model.runner, size, coded_input.margin)
    graph = Graph("backbone", logits, {grid.name: grid.shape}, ("logits",), grid.sizes)
    preprocessing = config.preprocessing
    card = grid.card(preprocessing.mean, preprocessing.std, largest=1)
    steps = [IN_PYTHON[config.task]]
    if config.task == CLASSIFICATION and crop:
        steps.append(
            f"resizing of images to a short edge of {preprocessing.short_edge} pixels "
            f"({preprocessing.interpolation}), and a crop of the central {crop} pixels per side"
        )
    return ModelGraphs((graph,), card | {"in_python": steps}, size, usual)


class _Logits(nn.Module):
    """Network from its input, N x C x h x w, to logits.

    Args:
        runner: the network.
        size: (H, W) in pixels of all images; None for those of the input.
        margin: rows and columns of the input below and right of the images.
    """

    def __init__(self, runner: ImageNetwork, size: tuple[int, int] | None, margin: int):
        super().__init__()
        self.runner, self.size, self.margin = runner, size, margin

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if isinstance(self.runner, LatentNetwork):
            if self.size is None:
                size = tuple(STRIDE * (side - self.margin) for side in x.shape[2:])
                output = self.runner.run_grid(x, size)
            else:  # without rows and columns of zeros that are not coded
                rows, columns = coded_cells(self.size)
                output = self.runner.run_grid(x[:, :, :rows, :columns], self.size)
        else:
            output = self.runner.network(x)
        return output["out"] if isinstance(output, Mapping) else output
