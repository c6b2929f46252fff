"""Which coder a network needs: its parts say it."""

from __future__ import annotations

from torch import nn

from cdl_d2.codec.entropy.latent_codec_coder import LatentCodecCoder
from cdl_d2.codec.entropy.latent_coder import LatentCoder
from cdl_d2.codec.entropy.layered_coder import LayeredCoder
from cdl_d2.codec.entropy.variable_rate_coder import VariableRateCoder

Coder = LatentCoder | LayeredCoder


def coder_for(network: nn.Module, quality: int) -> Coder:
    """What quantizes and codes the latents of a network, at a rate where it has several.

    Raises:
        CdlError: for a quality that a variable-rate network has not.
    """
    if has_rates(network):
        return VariableRateCoder(network, quality)
    if hasattr(network, "latent_codec"):
        return LatentCodecCoder(network)
    layered = hasattr(network, "global_bottleneck")
    return LayeredCoder(network) if layered else LatentCoder(network)


def is_always_dequantized(network: nn.Module) -> bool:
    """Whether its latents are always those that a receiver has: round(y) means nothing there."""
    return has_rates(network) or hasattr(network, "latent_codec")


def has_rates(network: nn.Module) -> bool:
    """Whether a network codes at several rates, of which one is chosen when coding."""
    return hasattr(network, "Gain")
