"""Input adapter (bridge) from a latent to an intermediate stage of an RGB model.

Its layers are the first ones of the codec's decoder, or a transform module of *Semantic
Segmentation in Learned Compressed Domain* (figure 4), which this generalizes.

Shapes: N images, M latent channels, h x w latent positions of 16 x 16 pixels, C channels of the RGB
model's stage.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from cdl_d2.codec.codec import Codec
from cdl_d2.codec.latent import STRIDE
from cdl_d2.errors import CdlError
from cdl_d2.nn.backbones.resnet import initialize_convolution
from cdl_d2.nn.input.latent_input import LatentInput

KINDS = ("decoder", "deconv", "res")
FIRST_CONVOLUTION = "conv1"  # entry of a LinearBridge, which fits any RGB network
STAGE_STRIDES = {"stem": 4, "res2": 4, "res3": 8}  # entries of a Bridge: output stride in pixels
ENTRIES = (FIRST_CONVOLUTION, *STAGE_STRIDES)


class Bridge(nn.Module):
    """Upsampling of a latent to stride 4 or 8, with the channels of an RGB model's stage.

    ```
    y_hat (16) -> input -> first layers of g_s (8 or 4) -> 3x3 conv, norm, ReLU -> feature
    ```

    Args:
        codec: codec of the latents, whose decoder layers are copied.
        stride: stride of the output, in pixels.
        out_channels: number of output channels C.
        kind: `decoder`; or, for stride 4 and without the projection, `deconv`, two transposed
            convolutions of 5 x 5 with an inverse GDN between them, as in the hyperprior's decoder,
            or `res`, twice a residual block and one that upsamples by pixel shuffle, as in
            cheng2020's.
        width: channels between the two halves of `deconv` and `res`; default M.
        frozen: do not train the decoder's layers.
        norm: function from a number of channels to the projection's normalization; default none.

    Raises:
        CdlError: for an unknown kind, or a decoder without this stride.
    """

    def __init__(
        self,
        codec: Codec,
        stride: int,
        out_channels: int,
        kind: str = "decoder",
        width: int | None = None,
        frozen: bool = False,
        norm: Callable[[int], nn.Module] | None = None,
    ):
        super().__init__()
        if kind not in KINDS:
            raise CdlError(f"bridge kind {kind!r} is not one of {', '.join(KINDS)}")
        self.input = LatentInput(codec.latent_channels, codec.identity)
        self.project = nn.Identity()
        if kind != "decoder":
            if stride != 4:
                raise CdlError(f"a bridge of kind {kind!r} ends at stride 4, not {stride}")
            self.layers = _transform_module(kind, codec.latent_channels, width, out_channels)
            return
        self.layers = decoder_layers(codec, stride).requires_grad_(not frozen)
        channels = self.layers(torch.zeros(1, codec.latent_channels, 2, 2)).shape[1]
        self.project = nn.Sequential(
            nn.Conv2d(channels, out_channels, kernel_size=3, padding=1, bias=norm is None),
            nn.Identity() if norm is None else norm(out_channels),
            nn.ReLU(),
        )
        self.project.apply(initialize_convolution)

    def forward(self, y_hat: torch.Tensor) -> torch.Tensor:
        """Map y_hat, N x M x h x w, to features N x C x 16h/stride x 16w/stride."""
        return self.project(self.layers(self.input(y_hat)))


def decoder_layers(codec: Codec, stride: int) -> nn.Sequential:
    """Copy the first layers of a codec's decoder, up to the last one with a stride in pixels.

    Raises:
        CdlError: if the decoder has no such stride, or is no nn.Sequential.
    """
    decoder, side = codec.network.g_s, 2
    if not isinstance(decoder, nn.Sequential):
        raise CdlError(f"the decoder of {codec.name} is no nn.Sequential: use another bridge kind")
    feature = next(decoder.parameters()).new_zeros(1, codec.latent_channels, side, side)
    end, strides = 0, []
    with torch.no_grad():
        for count, layer in enumerate(decoder, start=1):
            feature = layer(feature)
            strides.append(STRIDE * side // feature.shape[-1])
            if strides[-1] == stride:
                end = count
    if not end:
        raise CdlError(
            f"the decoder of {codec.name} has no stride {stride}, only "
            f"{sorted(set(strides), reverse=True)}"
        )
    return copy.deepcopy(decoder[:end]).cpu()


def _transform_module(kind: str, channels: int, width: int | None, out: int) -> nn.Sequential:
    from compressai.layers import GDN, ResidualBlock, ResidualBlockUpsample
    from compressai.models.utils import deconv

    width = width or channels
    if kind == "deconv":
        return nn.Sequential(deconv(channels, width), GDN(width, inverse=True), deconv(width, out))
    return nn.Sequential(
        ResidualBlock(channels, width),
        ResidualBlockUpsample(width, width, 2),
        ResidualBlock(width, width),
        ResidualBlockUpsample(width, out, 2),
    )
