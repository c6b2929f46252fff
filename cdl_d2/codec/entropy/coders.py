"""Selection of the coder for a network by its submodules."""

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


def select_coder(network: nn.Module) -> type[LatentCoder]:
    """Return the coder for a network that is built as CompressAI's image models are."""
    return next(coder for marks, coder in CODERS if all(hasattr(network, mark) for mark in marks))
