"""Features at the ends of a network's last two stages, for knowledge transfer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import nn
from torchvision.models import ResNet

from cdl_d2.errors import CdlError


def stage_ends(network: nn.Module) -> dict[str, nn.Module]:
    """Return the last layers of the stages at strides 16 and 32, `c4` and `c5`.

    These are the attribute `transfer_layers` of our networks, the last residual blocks of
    torchvision's ResNets, or the layers in timm's `feature_info`.

    Raises:
        CdlError: if the network has no such stages.
    """
    if hasattr(network, "transfer_layers"):
        return network.transfer_layers
    if isinstance(network, ResNet):
        return {"c4": network.layer3[-1], "c5": network.layer4[-1]}
    if hasattr(network, "feature_info"):  # timm's
        modules = {stage["reduction"]: stage["module"] for stage in network.feature_info}
        if 32 in modules:
            return {name: network.get_submodule(modules[s]) for name, s in (("c4", 16), ("c5", 32))}
    raise CdlError(
        f"{type(network).__name__} has no stages at strides 16 and 32 whose features could be "
        "compared"
    )


@contextmanager
def stage_features(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, torch.Tensor]]:
    """Record features of layers in a dict while networks run inside the block.

    Args:
        layers: name to layer. The feature of torchvision's BasicBlock and Bottleneck is the input
            of their final ReLU; that of other layers is their output.
    """
    features: dict[str, torch.Tensor] = {}

    def record_input(name: str, module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        # A copy: the ReLU works in place. Earlier calls of the same ReLU are overwritten.
        features[name] = inputs[0].clone()

    def record_output(name: str, module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        features[name] = output

    with ExitStack() as hooks:
        for name, layer in layers.items():
            if isinstance(getattr(layer, "relu", None), nn.ReLU):
                hook = layer.relu.register_forward_pre_hook(partial(record_input, name))
            else:
                hook = layer.register_forward_hook(partial(record_output, name))
            hooks.enter_context(hook)
        yield features
