"""Selection of the coder for a network."""

from __future__ import annotations

from torch import nn

from cdl_d2.codec.entropy.autoregressive_coder import AutoregressiveCoder
from cdl_d2.codec.entropy.factorized_coder import FactorizedCoder
from cdl_d2.codec.entropy.hyperprior_coder import HyperpriorCoder
from cdl_d2.codec.entropy.latent_codec_coder import LatentCodecCoder
from cdl_d2.codec.entropy.latent_coder import LatentCoder
from cdl_d2.codec.entropy.layered_coder import LayeredCoder
from cdl_d2.codec.entropy.variable_rate_coder import (
    VariableRateAutoregressiveCoder,
    VariableRateHyperpriorCoder,
)
from cdl_d2.codec.registry import find_architecture

# Coders, and submodules that identify their networks; the first that fits is taken.
CODERS: tuple[tuple[tuple[str, ...], type[LatentCoder]], ...] = (
    (("Gain", "context_prediction"), VariableRateAutoregressiveCoder),
    (("Gain",), VariableRateHyperpriorCoder),
    (("latent_codec",), LatentCodecCoder),
    (("global_bottleneck",), LayeredCoder),
    (("context_prediction",), AutoregressiveCoder),
    (("gaussian_conditional",), HyperpriorCoder),
    (("h_a",), HyperpriorCoder),
    ((), FactorizedCoder),
)


def select_coder(network: nn.Module, name: str) -> type[LatentCoder]:
    """Return the coder of a codec: that of its registered name, else the one for its submodules."""
    architecture = find_architecture(name)
    if architecture and architecture.coder:
        return architecture.coder
    return next(coder for marks, coder in CODERS if all(hasattr(network, mark) for mark in marks))
