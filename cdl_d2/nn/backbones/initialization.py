"""Initialization of a latent ResNet from a latent classifier or an RGB ResNet."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from cdl_d2.codec.io.state_dicts import fit_names
from cdl_d2.codec.io.weights_file import load_state_dict
from cdl_d2.errors import CdlError
from cdl_d2.nn.backbones.cresnet import RESNET_KEY
from cdl_d2.nn.backbones.resnet import LatentResNet

# Entries of the first conv4 block whose shapes depend on the stem.
STEM_DEPENDENT = ("conv4_1.0.conv1.", "conv4_1.0.downsample.0.")


def initialize_trunk(trunk: LatentResNet, path: str | Path) -> list[str]:
    """Load weights from a latent classifier's checkpoint or from an RGB ResNet-50.

    A latent classifier (keys `trunk.*`) has the whole trunk. A ResNet-50 with torchvision's keys
    has conv5 (`layer4`) and the first conv4 blocks (`layer3`); further conv4 blocks are initialized
    as identities, by a zero scale of their last normalization.

    Returns:
        the names of the loaded entries.

    Raises:
        FileNotFoundError, CdlError: if the file is missing, is no state dict, or does not fit, or
            if identity blocks could not learn (FrozenBN).
    """
    state = fit_names(load_state_dict(path), [RESNET_KEY])
    own = trunk.state_dict()
    if any(key.startswith("layer4.") for key in state):
        state, identity_blocks = _convert_resnet(trunk, state)
    else:
        state, identity_blocks = _extract_trunk(state), []
    state = {k: v for k, v in state.items() if k in own}
    wrong = [
        k for k, v in state.items() if own[k].shape != v.shape and not k.startswith(STEM_DEPENDENT)
    ]
    if wrong or not any(k.startswith("conv5.") for k in state):
        raise CdlError(
            f"{path} does not fit this latent ResNet ({wrong[0] if wrong else 'nothing'} has "
            "another shape): expected keys `trunk.*` of a latent classifier or `layer3.*`, "
            "`layer4.*` of a ResNet-50, in this width"
        )
    fitting = {k: v for k, v in state.items() if own[k].shape == v.shape}
    trunk.load_state_dict(fitting, strict=False)
    for block in identity_blocks:
        nn.init.zeros_(block.bn3.weight)
    return sorted(fitting)


def _extract_trunk(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    matches = ((re.search(r"(?:^|\.)trunk\.(.*)", key), value) for key, value in state.items())
    return {match[1]: value for match, value in matches if match}


def _convert_resnet(
    trunk: LatentResNet, state: dict[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], list[nn.Module]]:
    """Return a ResNet's entries under the trunk's names, and the blocks that it has not."""
    stages = ("conv4_1", "conv4_2", "conv4_3")
    blocks = [f"{s}.{i}" for s in stages for i in range(len(getattr(trunk, s)))]
    numbers = {int(m[1]) for key in state if (m := re.match(r"layer3\.(\d+)\.", key))}
    if not numbers:
        raise CdlError("weights with `layer4.*` and no `layer3.*` are not those of a ResNet-50")
    count = 1 + max(numbers)
    renamed = {}
    for key, value in state.items():
        layer, _, entry = key.partition(".")
        index, _, name = entry.partition(".")
        if layer == "layer3" and index.isdigit() and int(index) < len(blocks):
            renamed[f"{blocks[int(index)]}.{name}"] = value
        elif layer == "layer4":
            renamed[f"conv5.{entry}"] = value
    identity_blocks = [trunk.get_submodule(name) for name in blocks[count:]]
    if any(isinstance(block.bn3, FrozenBatchNorm2d) for block in identity_blocks):
        raise CdlError(
            f"a ResNet-50 has {count} of the {len(blocks)} blocks of conv4; the remaining ones "
            "cannot learn with norm FrozenBN, expected BN"
        )
    return renamed, identity_blocks
