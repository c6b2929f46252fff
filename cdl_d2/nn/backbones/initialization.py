"""Starting a latent ResNet from weights that exist already."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from cdl_d2.codec.io.state_dicts import fit_names
from cdl_d2.codec.io.weights_file import load_state_dict
from cdl_d2.errors import CdlError
from cdl_d2.nn.backbones.latent_resnet import LatentResNet

IN_RESNET = "layer4.0.conv1.weight"  # tells torchvision's ResNets
# What a pixel ResNet's first conv4 block has in another shape, behind another stem.
INPUT_SIDE = ("conv4_1.0.conv1.", "conv4_1.0.downsample.0.")


def initialize_trunk(trunk: LatentResNet, path: str | Path) -> list[str]:
    """Load what fits from a latent classifier's checkpoint or from a pixel ResNet-50.

    A latent classifier (keys `trunk.*`) gives the whole trunk. A ResNet-50 with torchvision's
    keys gives conv5 (`layer4`) and, in order, as many conv4 blocks as `layer3` has; the conv4
    blocks beyond them start as identities (their last normalization scales by zero).

    Returns:
        the names of the trunk's entries that were loaded.

    Raises:
        FileNotFoundError, CdlError: if the file is missing, is not a state dict, or does not fit,
            or if blocks that start as identities could not learn (FrozenBN).
    """
    state = fit_names(load_state_dict(path), [IN_RESNET])
    own = trunk.state_dict()
    if any(key.startswith("layer4.") for key in state):
        state, beyond = _from_pixel_resnet(trunk, state)
    else:
        state, beyond = _from_latent_network(state), []
    state = {k: v for k, v in state.items() if k in own}
    wrong = [
        k for k, v in state.items() if own[k].shape != v.shape and not k.startswith(INPUT_SIDE)
    ]
    if wrong or not any(k.startswith("conv5.") for k in state):
        raise CdlError(
            f"{path} does not fit this latent ResNet ({wrong[0] if wrong else 'nothing'} has "
            "another shape): expected keys `trunk.*` of a latent classifier or `layer3.*`, "
            "`layer4.*` of a ResNet-50, in this width"
        )
    fitting = {k: v for k, v in state.items() if own[k].shape == v.shape}
    trunk.load_state_dict(fitting, strict=False)
    for block in beyond:
        nn.init.zeros_(block.bn3.weight)
    return sorted(fitting)


def _from_latent_network(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = ((re.search(r"(?:^|\.)trunk\.(.*)", key), value) for key, value in state.items())
    return {match[1]: value for match, value in found if match}


def _from_pixel_resnet(trunk: LatentResNet, state: dict[str, torch.Tensor]):
    stages = ("conv4_1", "conv4_2", "conv4_3")
    blocks = [f"{s}.{i}" for s in stages for i in range(len(getattr(trunk, s)))]
    numbers = {int(m[1]) for key in state if (m := re.match(r"layer3\.(\d+)\.", key))}
    if not numbers:
        raise CdlError("weights with `layer4.*` and no `layer3.*` are not those of a ResNet-50")
    count = 1 + max(numbers)
    renamed = {}
    for key, value in state.items():
        layer, _, rest = key.partition(".")
        index, _, name = rest.partition(".")
        if layer == "layer3" and index.isdigit() and int(index) < len(blocks):
            renamed[f"{blocks[int(index)]}.{name}"] = value
        elif layer == "layer4":
            renamed[f"conv5.{rest}"] = value
    beyond = [trunk.get_submodule(name) for name in blocks[count:]]
    if any(isinstance(block.bn3, FrozenBatchNorm2d) for block in beyond):
        raise CdlError(
            f"a ResNet-50 has {count} of the {len(blocks)} blocks of conv4; the others could never "
            "learn behind FrozenBN: set MODEL.LATENT_RESNET.NORM BN"
        )
    return renamed, beyond
