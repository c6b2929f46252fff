"""From a latent to the feature that a segmentation network's first layers gave (figure 4 of
*Semantic Segmentation in Learned Compressed Domain*).

Shapes: N images, M latent channels, h x w cells of 16 x 16 pixels, C output channels.
"""

from __future__ import annotations

import torch
from torch import nn

from cdl_d2.errors import CdlError
from cdl_d2.nn.latent_input import LatentInput

MODULES = ("deconv", "res")


class TransformModule(nn.Module):
    """Upsamples a latent fourfold, to stride 4.

    `deconv` has two transposed convolutions of 5 x 5, as the hyperprior's decoder, with its
    inverse GDN between them; `res` has, twice, a residual block and one that upsamples by pixel
    shuffle, as cheng2020's decoder.

    Args:
        input_layer: checks and normalizes y_hat; knows M.
        out_channels: C.
        kind: `deconv` or `res`.
        width: channels between the two halves; default M.

    Raises:
        ValueError: for an unknown kind.
    """

    def __init__(
        self, input_layer: LatentInput, out_channels: int, kind: str, width: int | None = None
    ):
        super().__init__()
        if kind not in MODULES:
            raise CdlError(f"transform module {kind!r} is not one of {', '.join(MODULES)}")
        from compressai.layers import GDN, ResidualBlock, ResidualBlockUpsample
        from compressai.models.utils import deconv

        channels = input_layer.channels
        width = width or channels
        self.input = input_layer
        if kind == "deconv":
            self.layers = nn.Sequential(
                deconv(channels, width), GDN(width, inverse=True), deconv(width, out_channels)
            )
        else:
            self.layers = nn.Sequential(
                ResidualBlock(channels, width),
                ResidualBlockUpsample(width, width, 2),
                ResidualBlock(width, width),
                ResidualBlockUpsample(width, out_channels, 2),
            )

    def forward(self, y_hat: torch.Tensor) -> torch.Tensor:
        """From y_hat, N x M x h x w, to N x C x 4h x 4w.

        Raises:
            ValueError: if y_hat has another number of channels.
        """
        return self.layers(self.input(y_hat))
