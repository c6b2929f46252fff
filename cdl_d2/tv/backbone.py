"""Backbones with torchvision's feature pyramid: on latents, and a narrow one on pixels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from cdl_d2.codec import Codec
from cdl_d2.errors import CdlError
from cdl_d2.nn import LatentPyramidTrunk
from cdl_d2.nn.backbones.narrow_resnet import NarrowResNet
from cdl_d2.nn.bridge.bridge import Bridge

# torchvision's names of pyramid levels, and the pixels a side of their cells.
STRIDES = {"0": 4, "1": 8, "2": 16, "3": 32, "pool": 64}

# Where a bridge stands for whole stages of torchvision's ResNet, by Detectron2's names of layers:
# the stride of its output, and how many stages.
ENTRIES = {"stem": (4, 0), "res2": (4, 1), "res3": (8, 2)}


class BridgedBody(nn.Module):
    """The stages of torchvision's ResNet behind its entry, under their own names, so that a pixel
    checkpoint fits them; what the layers before gave comes from a bridge.

    Args:
        codec: whose latents are read.
        resnet: its layers before the entry are left out.
        entry: one of ENTRIES.
        norm_layer: of the bridge's projection; default none.

    Raises:
        CdlError: for an unknown entry; see Bridge.
    """

    def __init__(
        self,
        codec: Codec,
        resnet: ResNet,
        entry: str,
        norm_layer: Callable[[int], nn.Module] | None = None,
    ):
        super().__init__()
        if entry not in ENTRIES:
            raise CdlError(f"a bridge's entry {entry!r} is not one of {', '.join(ENTRIES)}")
        stride, replaced = ENTRIES[entry]
        stages = [resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4]
        widths = [stage[-1].bn3.weight.shape[0] for stage in stages]
        channels = widths[replaced - 1] if replaced else resnet.conv1.out_channels
        self.bridge = Bridge(codec, stride, channels, norm=norm_layer)
        self._names = [f"layer{i + 1}" for i in range(replaced, 4)]
        for name in self._names:
            self.add_module(name, getattr(resnet, name))
        first = max(replaced - 1, 0)  # the bridge's own output is a level, unless it is the stem's
        self.channels = {f"res{i + 2}": widths[i] for i in range(first, 4)}

    def forward(self, latents: torch.Tensor) -> dict[str, torch.Tensor]:
        """From N x M x h x w latents to res2 or res3, ..., res5."""
        feature = self.bridge(latents)
        features = [] if len(self._names) == len(self.channels) else [feature]
        for name in self._names:
            feature = getattr(self, name)(feature)
            features.append(feature)
        return dict(zip(self.channels, features, strict=True))


class LatentBackboneWithFPN(nn.Module):
    """A network on latents under torchvision's feature pyramid network (figure 2 of
    *Learning in Compressed Domain via Knowledge Transfer*).

    Args:
        body: the latent ResNet with sub-pixel upsampling, or a pixel ResNet behind a bridge; gives
            features of the last levels, all four or those from P3.
        out_channels: of every level.
        norm_layer: of the pyramid's convolutions; default none.
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
        """From N x M x h x w latents, h and w even, to `levels` of STRIDES."""
        features = self.body(latents).values()
        return self.fpn(OrderedDict(zip(self.levels, features, strict=True)))


def narrow_resnet_fpn(
    width: float, out_channels: int, norm_layer: Callable[[int], nn.Module]
) -> BackboneWithFPN:
    """A NarrowResNet under torchvision's feature pyramid network."""
    return BackboneWithFPN(
        NarrowResNet(width, norm_layer=norm_layer),
        {f"layer{i + 1}": str(i) for i in range(4)},
        [int(64 * 2**i * width) * Bottleneck.expansion for i in range(4)],
        out_channels,
        norm_layer=norm_layer,
    )
