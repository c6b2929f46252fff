"""The first graph of every model: backbone, static channel selection and, perhaps, a head."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from cdl_d2.d2.modeling.selected_channels import SelectedChannels
from cdl_d2.nn.selection.channel_selection import ChannelGate

Size = tuple[int, int]
SMALL_IMAGE = (64, 96)  # pixels: models without a pyramid are traced at such a size or larger


class Backbone(nn.Module):
    """A network after a static channel selection, and before the head of a segmentation model."""

    def __init__(
        self, network: nn.Module, selection: SelectedChannels | None, head: nn.Module | None = None
    ):
        super().__init__()
        chooser = None if selection is None else selection.chooser
        self.chooser = None if isinstance(chooser, ChannelGate) else chooser
        self.network, self.head = network, head

    def forward(self, inputs: torch.Tensor, *scales: torch.Tensor) -> Any:
        """Return the network's features, or the head's logits before they are enlarged."""
        if self.chooser is not None:
            inputs = inputs * self.chooser(inputs)
        features = self.network(inputs, *scales)
        if self.head is None:
            return features
        if hasattr(self.head, "layers"):
            return self.head.layers(features)
        return self.head.predictor(self.head.aspp(features[self.head.in_features[0]]))


def pixel_normalization(model: nn.Module) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation by which a Detectron2 model normalizes pixels."""
    return model.pixel_mean.flatten().tolist(), model.pixel_std.flatten().tolist()
