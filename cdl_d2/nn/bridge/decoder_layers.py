"""First layers of a codec's decoder, arranged for speed.

Results differ from those of the decoder by rounding only, and parameters keep their names.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

from cdl_d2.codec.codec import Codec
from cdl_d2.codec.latent import STRIDE
from cdl_d2.device import GPU_TYPES
from cdl_d2.errors import CdlError


class DecoderLayers(nn.Sequential):
    """Layers that upsample a latent, in channels-last format on the CPU, as their output is.

    Args:
        layers: upsampling layers, from a latent on; an inverse GDN is replaced by an InverseGDN.
    """

    def __init__(self, *layers: nn.Module):
        from compressai.layers import GDN

        inverse = [type(layer) is GDN and layer.inverse for layer in layers]
        super().__init__(
            *(InverseGDN(m) if is_gdn else m for m, is_gdn in zip(layers, inverse, strict=True))
        )

    def forward(self, y_hat: torch.Tensor) -> torch.Tensor:
        """Map y_hat, N x M x h x w, to a feature, N x C x 16h/s x 16w/s of stride s."""
        if y_hat.device.type not in GPU_TYPES:
            y_hat = y_hat.contiguous(memory_format=torch.channels_last)
        return super().forward(y_hat)


class InverseGDN(nn.Module):
    """Inverse generalized divisive normalization: x_i sqrt(beta_i + sum_j gamma_ij x_j^2).

    *Density Modeling of Images using a Generalized Normalization Transformation*
    (arXiv 1511.06281). Without gradients it writes into its own buffers: large new tensors cost
    page faults.

    Args:
        gdn: CompressAI's layer, whose parameters it takes.
    """

    def __init__(self, gdn: nn.Module):
        super().__init__()
        self.beta, self.beta_reparam = gdn.beta, gdn.beta_reparam
        self.gamma, self.gamma_reparam = gdn.gamma, gdn.gamma_reparam

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize x, N x C x h x w."""
        gamma = self.gamma_reparam(self.gamma)[:, :, None, None]
        norm = F.conv2d(x.square(), gamma, self.beta_reparam(self.beta))
        if norm.requires_grad or x.requires_grad:
            return x * norm.sqrt()
        return norm.sqrt_().mul_(x)


def decoder_layers(codec: Codec, stride: int) -> DecoderLayers:
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
    return DecoderLayers(*copy.deepcopy(decoder[:end]).cpu())
