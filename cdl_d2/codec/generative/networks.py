"""The networks of `zhang2022`, as image models of CompressAI."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from compressai.models import MeanScaleHyperprior
from torch import nn

from cdl_d2.codec.generative.transforms import DEEPEST, GeneratorTrunk, encoder, generator


class GenerativeHyperprior(MeanScaleHyperprior):
    """Encoder and generator of *High-Fidelity Generative Image Compression* (arXiv 2006.09965)
    around a hyperprior that predicts mean and scale.

    *Analysis on Compressed Domain: A Multi-Task Learning Approach* (DCC 2022) trains such a codec
    with an adversarial loss, and does not say how its networks look.

    Args:
        N: channels of the hyperprior.
        M: channels of the latent.
        width: channels of the encoder's first layer; 16 times that in the residual blocks.
        blocks: residual blocks of the generator.
    """

    TINY = {"N": 32, "M": 192, "width": 8, "blocks": 3}

    def __init__(self, N: int = 320, M: int = 220, width: int = 60, blocks: int = 9):
        super().__init__(N=N, M=M)
        channels = DEEPEST * width
        self.g_a = encoder(width, nn.Conv2d(channels, M, 3, padding=1))
        self.g_s = generator(GeneratorTrunk(M, channels, blocks), width)

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, torch.Tensor]) -> GenerativeHyperprior:
        """A network of the size that its weights have."""
        network = cls(**cls._sizes(state_dict))
        network.load_state_dict(state_dict)
        return network

    @classmethod
    def _sizes(cls, state_dict: Mapping[str, torch.Tensor]) -> dict[str, int]:
        blocks = {key.split(".")[3] for key in state_dict if key.startswith("g_s.0.blocks.")}
        return {
            "N": len(state_dict["entropy_bottleneck.quantiles"]),
            "M": len(state_dict["g_s.0.enter.0.weight"]),
            "width": len(state_dict["g_a.0.weight"]),
            "blocks": len(blocks),
        }


NETWORKS = {"zhang2022": GenerativeHyperprior}
