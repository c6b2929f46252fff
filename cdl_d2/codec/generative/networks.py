"""The networks of `zhang2022`, as image models of CompressAI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from compressai.entropy_models import EntropyBottleneck
from compressai.models import MeanScaleHyperprior
from torch import nn

from cdl_d2.codec.generative.transforms import (
    DEEPEST,
    FirstChannels,
    GeneratorTrunk,
    LayeredHead,
    encoder,
    generator,
    initialize,
)
from cdl_d2.errors import CdlError


class GenerativeHyperprior(MeanScaleHyperprior):
    """Generative codec with a hyperprior that predicts means and scales.

    Encoder and generator are those of *High-Fidelity Generative Image Compression* (arXiv
    2006.09965).

    *Analysis on Compressed Domain: A Multi-Task Learning Approach* (DCC 2022) trains such a codec
    with an adversarial loss; it does not specify the networks.

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
        initialize(self.g_a, self.g_s)

    @classmethod
    def sizes_of(cls, state_dict: Mapping[str, torch.Tensor]) -> dict[str, int]:
        """Return the arguments that make a network of the size that its weights have."""
        blocks = {key.split(".")[3] for key in state_dict if key.startswith("g_s.0.blocks.")}
        return {
            "N": len(state_dict["entropy_bottleneck.quantiles"]),
            "M": len(state_dict["g_s.0.enter.0.weight"]),
            "width": len(state_dict["g_a.0.weight"]),
            "blocks": len(blocks),
        }


class LayeredGenerativeHyperprior(GenerativeHyperprior):
    """Generative codec with a layered representation: spatial channels and one global vector.

    The same paper names *layered representations* and does not specify them.

    ```
    x -> g_a -+-> spatial y ---- hyperprior ----------> spatial y_hat -> g_s -> x_hat
              `-> average -> g - global_bottleneck ---> g_hat ------------^ adaptive normalization
    ```

    The output of `g_a` and the input of `g_s` have M + G channels, the last G constant planes.

    Args:
        N: channels of the hyperprior.
        M: spatial channels of the latent.
        width: channels of the encoder's first layer.
        blocks: residual blocks of the generator.
        G: length of the global vector.
    """

    TINY = {**GenerativeHyperprior.TINY, "G": 16}

    def __init__(self, N: int = 320, M: int = 220, width: int = 60, blocks: int = 9, G: int = 64):
        super().__init__(N, M, width, blocks)
        channels = DEEPEST * width
        self.g_a = encoder(width, LayeredHead(channels, M, G))
        self.h_a = nn.Sequential(FirstChannels(M), *self.h_a)
        self.g_s = generator(GeneratorTrunk(M, channels, blocks, G), width)
        self.global_bottleneck = EntropyBottleneck(G)
        initialize(self.g_a, self.g_s)

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        """Return `x_hat`, N x 3 x H x W, and likelihoods of `y`, `z` and `g`, N x G x 1 x 1."""
        y = self.g_a(x)
        z_hat, z_likelihoods = self.entropy_bottleneck(self.h_a(y))
        scales_hat, means_hat = self.h_s(z_hat).chunk(2, 1)
        spatial, g = y[:, : self.M], y[:, self.M :, :1, :1]
        y_hat, y_likelihoods = self.gaussian_conditional(spatial, scales_hat, means=means_hat)
        g_hat, g_likelihoods = self.global_bottleneck(g)
        planes = g_hat.expand(-1, -1, *y.shape[2:])
        return {
            "x_hat": self.g_s(torch.cat([y_hat, planes], dim=1)),
            "likelihoods": {"y": y_likelihoods, "z": z_likelihoods, "g": g_likelihoods},
        }

    def compress(self, x: torch.Tensor) -> NoReturn:
        """Raise CdlError: CompressAI has no string for the global vector."""
        raise CdlError("CompressAI cannot code a global vector: use Codec.compress")

    decompress = compress

    @classmethod
    def sizes_of(cls, state_dict: Mapping[str, torch.Tensor]) -> dict[str, int]:
        """Return the arguments that make a network of the size that its weights have."""
        return {**super().sizes_of(state_dict), "G": len(state_dict["global_bottleneck.quantiles"])}
