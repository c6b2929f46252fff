"""Which coder a network needs: its parts say it."""

from __future__ import annotations

from torch import nn

from cdl_d2.codec.entropy.latent_codec_coder import LatentCodecCoder
from cdl_d2.codec.entropy.latent_coder import LatentCoder
from cdl_d2.codec.entropy.layered_coder import LayeredCoder
from cdl_d2.codec.entropy.variable_rate_coder import VariableRateCoder

Coder = LatentCoder | LayeredCoder


# Parts of networks that only one coder needs.
CODERS = {
    "Gain": VariableRateCoder,
    "latent_codec": LatentCodecCoder,
    "global_bottleneck": LayeredCoder,
}


def select_coder(network: nn.Module) -> type[Coder]:
    """Return the coder for the parts that a network has."""
    fitting = (coder for part, coder in CODERS.items() if hasattr(network, part))
    return next(fitting, LatentCoder)
