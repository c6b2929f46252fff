"""Backbones with torchvision's feature pyramid: on latents, and a narrow one on pixels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import Bottleneck
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from cdl_d2.nn import LatentPyramidTrunk
from cdl_d2.nn.narrow_resnet import NarrowResNet

# torchvision's names of pyramid levels, and the pixels a side of their cells.
STRIDES = {"0": 4, "1": 8, "2": 16, "3": 32, "pool": 64}


class LatentBackboneWithFPN(nn.Module):
    """The latent ResNet under torchvision's feature pyramid network (figure 2 of the paper).

    Args:
        body: the latent ResNet with sub-pixel upsampling.
        out_channels: of every level.
        norm_layer: of the pyramid's convolutions; default none.
    """

    def __init__(
        self,
        body: LatentPyramidTrunk,
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

    def forward(self, latents: torch.Tensor) -> dict[str, torch.Tensor]:
        """From N x M x h x w latents, h and w even, to the levels of STRIDES."""
        features = self.body(latents).values()
        return self.fpn(OrderedDict((str(i), feature) for i, feature in enumerate(features)))


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
