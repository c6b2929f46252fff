"""Features at the ends of a network's last two stages, where knowledge transfer compares them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torchvision.models import ResNet

from cdl_d2.errors import CdlError


def stage_ends(network: nn.Module) -> dict[str, nn.Module]:
    """The last layers of the stages at strides 16 and 32, under the names c4 and c5: the last
    residual blocks of conv4 and conv5, or what a network of timm lists.

    Raises:
        CdlError: if the network has no such stages.
    """
    if isinstance(network, ResNet):
        return {"c4": network.layer3[-1], "c5": network.layer4[-1]}
    if hasattr(network, "feature_info"):
        by_stride = {each["reduction"]: each["module"] for each in network.feature_info}
        if 32 in by_stride:
            strides = {"c4": 16, "c5": 32}
            return {name: network.get_submodule(by_stride[s]) for name, s in strides.items()}
    trunk = getattr(network, "trunk", network)
    conv4 = getattr(trunk, "conv4_3", getattr(trunk, "conv4", None))
    if conv4 is None or not hasattr(trunk, "conv5"):
        raise CdlError(
            f"{type(network).__name__} has no stages at strides 16 and 32 to compare: set "
            "MODEL.TRANSFER.FEATURES.ENABLED False"
        )
    return {"c4": conv4[-1], "c5": trunk.conv5[-1]}


@contextmanager
def stage_features(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, torch.Tensor]]:
    """Fill a dict, while networks run, with what layers give.

    Args:
        layers: of torchvision's BasicBlock or Bottleneck, whose ReLU is called several times and
            last, what enters it; of others, their output.
    """
    features: dict[str, torch.Tensor] = {}

    def before_relu(name: str):
        # A copy: the ReLU works in place. Earlier calls of the same ReLU are overwritten.
        return lambda module, inputs: features.__setitem__(name, inputs[0].clone())

    def output(name: str):
        return lambda module, inputs, output: features.__setitem__(name, output)

    handles = [
        layer.relu.register_forward_pre_hook(before_relu(name))
        if isinstance(getattr(layer, "relu", None), nn.ReLU)
        else layer.register_forward_hook(output(name))
        for name, layer in layers.items()
    ]
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()
