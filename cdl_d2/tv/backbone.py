"""Backbones on latents with torchvision's feature pyramid.

Shapes: N images, M latent channels, h x w latent positions.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn
from torchvision.models.resnet import ResNet
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from cdl_d2.codec import Codec
from cdl_d2.errors import check_choice
from cdl_d2.nn import LatentPyramidTrunk
from cdl_d2.nn.bridge.bridge import STAGE_STRIDES, Bridge

# torchvision's names of pyramid levels, and their strides in pixels.
STRIDES = {"0": 4, "1": 8, "2": 16, "3": 32, "pool": 64}
REPLACED_STAGES = {"stem": 0, "res2": 1, "res3": 2}  # stages of a ResNet that a bridge replaces


class BridgedBody(nn.Module):
    """A torchvision ResNet whose stem and first stages are replaced by a bridge.

    The other stages keep their names, so that checkpoints of the RGB network fit.

    Args:
        codec: codec of the latents.
        resnet: the RGB network; its layers before the entry are left out.
        entry: last replaced part, a key of STAGE_STRIDES.
        norm_layer: normalization of the bridge's projection; None for none.

    Raises:
        CdlError: if the entry is unknown, or the codec's decoder lacks its stride.
    """

    def __init__(
        self,
        codec: Codec,
        resnet: ResNet,
        entry: str,
        norm_layer: Callable[[int], nn.Module] | None = None,
    ):
        super().__init__()
        check_choice("a bridge's entry", entry, STAGE_STRIDES)
        replaced = REPLACED_STAGES[entry]
        stages = [resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4]
        widths = [stage[-1].bn3.weight.shape[0] for stage in stages]
        channels = widths[replaced - 1] if replaced else resnet.conv1.out_channels
        self.bridge = Bridge(codec, STAGE_STRIDES[entry], channels, norm=norm_layer)
        self._names = [f"layer{i + 1}" for i in range(replaced, 4)]
        for name in self._names:
            self.add_module(name, getattr(resnet, name))
        first = max(replaced - 1, 0)  # the bridge's own output is a level, unless it is the stem's
        self.channels = {f"res{i + 2}": widths[i] for i in range(first, 4)}

    def forward(self, latents: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the features `res2` or `res3` to `res5` of latents, N x M x h x w."""
        feature = self.bridge(latents)
        features = [] if len(self._names) == len(self.channels) else [feature]
        for name in self._names:
            feature = getattr(self, name)(feature)
            features.append(feature)
        return dict(zip(self.channels, features, strict=True))


class LatentBackboneWithFPN(nn.Module):
    """A latent network under torchvision's feature pyramid network.

    Figure 2 of *Learning in Compressed Domain via Knowledge Transfer*.

    Args:
        body: a latent ResNet with sub-pixel upsampling, or an RGB ResNet behind a bridge; returns
            features of the pyramid levels from P2 or P3 on.
        out_channels: channels of every level.
        norm_layer: normalization of the pyramid's convolutions; None for none.
    """

    def __init__(
        self,
        body: LatentPyramidTrunk | BridgedBody,
        out_channels: int,
        norm_layer: Callable[[int], nn.Module] | None = None,
    ):
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(
            list(body.channels.values()),
            out_channels,
            extra_blocks=LastLevelMaxPool(),
            norm_layer=norm_layer,
        )
        self.out_channels = out_channels
        self.levels = list(STRIDES)[:-1][-len(body.channels) :]

    def forward(self, latents: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the pyramid levels of latents, N x M x h x w with even h and w."""
        features = self.body(latents).values()
        return self.fpn(OrderedDict(zip(self.levels, features, strict=True)))
