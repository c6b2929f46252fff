"""Encoder and generator of *High-Fidelity Generative Image Compression*.

arXiv 2006.09965, appendix A.2.

Channel normalization normalizes over the channels of each position, so that features do not depend
on the image's size. Shapes: N images, W the width, M spatial and G global channels, h x w positions
at stride 16.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.convnext import LayerNorm2d as ChannelNorm

from cdl_d2.errors import CdlError

HALVINGS = 4  # of the image's sides: stride 16
DEEPEST = 2**HALVINGS  # channels at stride 16, as a multiple of W


def encoder(width: int, head: nn.Module) -> nn.Sequential:
    """Return g_a: a 7x7 convolution to W channels, four of stride 2 that double them, and a head.

    Args:
        width: W.
        head: module whose input is N x 16 W x h x w.
    """
    layers = [nn.Conv2d(3, width, 7, padding=3), ChannelNorm(width), nn.ReLU()]
    for channels in (width * 2**i for i in range(HALVINGS)):
        down = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)
        layers += [down, ChannelNorm(2 * channels), nn.ReLU()]
    return nn.Sequential(*layers, head)


def generator(trunk: GeneratorTrunk, width: int) -> nn.Sequential:
    """Return g_s: a trunk, four transposed convolutions that halve the channels, 7x7 to RGB."""
    layers: list[nn.Module] = [trunk]
    for channels in (width * 2**i for i in reversed(range(HALVINGS))):
        up = nn.ConvTranspose2d(2 * channels, channels, 3, 2, padding=1, output_padding=1)
        layers += [up, ChannelNorm(channels), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, 3, 7, padding=3))


def initialize(g_a: nn.Sequential, g_s: nn.Sequential) -> None:
    """Initialize weights randomly, so that g_s returns grey images.

    Scales are those of *Delving Deep into Rectifiers* (arXiv 1502.01852) for layers before ReLU.
    The first layer maps images to [-2, 2] and has biases as large as its features: where an image
    is smooth, only biases distinguish brightnesses after channel normalization.

    Args:
        g_a: an encoder.
        g_s: a generator.
    """
    for module in (*g_a.modules(), *g_s.modules()):
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.ConvTranspose2d):
            fan_in = module.in_channels * math.prod(module.kernel_size) / math.prod(module.stride)
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_in))
    first, last = g_a[0], g_s[-1]
    with torch.no_grad():
        first.weight *= 4
        first.bias.uniform_(-1, 1).sub_(first.weight.sum((1, 2, 3)) / 2)
        last.weight *= 0.2
        last.bias.fill_(0.5)


class GeneratorTrunk(nn.Module):
    """Part of the generator at stride 16.

    ```
    spatial channels -> norm -> 3x3 conv -> norm -+-> residual blocks -> + ->
                                                  `----------------------'
    global channels ----- scale and shift ---------------^
    ```

    Args:
        spatial_channels: M.
        channels: 16 W.
        blocks: number of residual blocks.
        global_channels: G; 0 for channel normalization instead of the adaptive one.
    """

    def __init__(self, spatial_channels: int, channels: int, blocks: int, global_channels: int = 0):
        super().__init__()
        self.spatial_channels, self.global_channels = spatial_channels, global_channels
        self.enter = nn.Sequential(
            ChannelNorm(spatial_channels),
            nn.Conv2d(spatial_channels, channels, 3, padding=1),
            ChannelNorm(channels),
        )
        norm = partial(AdaptiveNorm, global_channels) if global_channels else ChannelNorm
        self.blocks = nn.ModuleList([ResidualBlock(channels, norm) for _ in range(blocks)])

    def forward(self, y_hat: torch.Tensor) -> torch.Tensor:
        """Map y_hat, N x (M + G) x h x w, to N x 16 W x h x w.

        Raises:
            CdlError: if y_hat has another number of channels.
        """
        if y_hat.shape[1] != self.spatial_channels + self.global_channels:
            raise CdlError(
                f"a latent has {y_hat.shape[1]} channels, the decoder expects "
                f"{self.spatial_channels + self.global_channels}"
            )
        entry = feature = self.enter(y_hat[:, : self.spatial_channels])
        # Global channels are constant planes.
        g = [y_hat[:, self.spatial_channels :, 0, 0]] if self.global_channels else []
        for block in self.blocks:
            feature = block(feature, *g)
        return entry + feature


class ResidualBlock(nn.Module):
    """Residual block, x + norm(conv(ReLU(norm(conv(x))))), with 3x3 convolutions.

    Args:
        channels: C.
        norm: return a normalization of C channels.
    """

    def __init__(self, channels: int, norm: Callable[[int], nn.Module]):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm1 = norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = norm(channels)

    def forward(self, x: torch.Tensor, *g: torch.Tensor) -> torch.Tensor:
        """Map x, N x C x h x w; `g`, N x G, goes to adaptive normalizations."""
        inner = F.relu(self.norm1(self.conv1(x), *g))
        return x + self.norm2(self.conv2(inner), *g)


class AdaptiveNorm(nn.Module):
    """Adaptive instance normalization, whose gain and shift are linear in the global vector.

    *Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization* (arXiv 1703.06868).

    Args:
        global_channels: G.
        channels: C.
    """

    def __init__(self, global_channels: int, channels: int):
        super().__init__()
        self.style = nn.Linear(global_channels, 2 * channels)

    def forward(self, x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """Normalize x, N x C x h x w, given g, N x G."""
        gain, shift = self.style(g)[:, :, None, None].chunk(2, dim=1)
        return F.instance_norm(x) * (1 + gain) + shift


class LayeredHead(nn.Module):
    """Head of the encoder for a layered representation.

    A convolution computes the spatial channels; average pooling and a linear layer compute the
    global vector, appended as constant planes.

    Args:
        channels: C of the deepest features.
        spatial_channels: M.
        global_channels: G.
    """

    def __init__(self, channels: int, spatial_channels: int, global_channels: int):
        super().__init__()
        self.spatial = nn.Conv2d(channels, spatial_channels, 3, padding=1)
        self.vector = nn.Linear(channels, global_channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map N x C x h x w to N x (M + G) x h x w."""
        g = self.vector(features.mean((2, 3)))[:, :, None, None]
        return torch.cat([self.spatial(features), g.expand(-1, -1, *features.shape[2:])], dim=1)


class FirstChannels(nn.Module):
    """Selection of the first channels: the spatial ones of a layered representation."""

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        """Map N x C x h x w to N x count x h x w."""
        return feature[:, : self.count]
