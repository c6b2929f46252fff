"""Features before the last ReLU of a network's stages, where knowledge transfer compares them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torchvision.models import ResNet

from cdl_d2.errors import CdlError


def stage_ends(network: nn.Module) -> dict[str, nn.Module]:
    """The last residual blocks of conv4 and conv5, under the names c4 and c5.

    Raises:
        CdlError: if the network has no such stages.
    """
    if isinstance(network, ResNet):
        return {"c4": network.layer3[-1], "c5": network.layer4[-1]}
    trunk = getattr(network, "trunk", network)
    conv4 = getattr(trunk, "conv4_3", getattr(trunk, "conv4", None))
    if conv4 is None or not hasattr(trunk, "conv5"):
        raise CdlError(f"{type(network).__name__} has no stages conv4 and conv5 to compare")
    return {"c4": conv4[-1], "c5": trunk.conv5[-1]}


@contextmanager
def features_before_relu(blocks: Mapping[str, nn.Module]) -> Iterator[dict[str, torch.Tensor]]:
    """Fill a dict, while networks run, with what enters the last ReLU of residual blocks.

    Args:
        blocks: torchvision's BasicBlock or Bottleneck; their ReLU, called several times, is the
            last thing that they do.
    """
    features: dict[str, torch.Tensor] = {}

    def record(name: str):
        # A copy: the ReLU works in place. Earlier calls of the same ReLU are overwritten.
        return lambda module, inputs: features.__setitem__(name, inputs[0].clone())

    handles = [block.relu.register_forward_pre_hook(record(name)) for name, block in blocks.items()]
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()
