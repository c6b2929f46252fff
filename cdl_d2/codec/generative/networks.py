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
    """A generative codec whose image is split into channels in space and one global vector
    (*layered representations* of the same paper, whose slides do not say how).

    ```
    x -> g_a -+-> spatial y ---- hyperprior ----------> spatial y_hat -> g_s -> x_hat
              `-> average -> g - global_bottleneck ---> g_hat ------------^ adaptive normalization
    ```

    `g_a` gives, and `g_s` reads, M + G channels, of which the last G are constant planes.

    Args:
        N, M, width, blocks: see GenerativeHyperprior; M counts the spatial channels.
        G: numbers of the global vector.
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
        """As MeanScaleHyperprior; the likelihoods of the global vector are `g`, N x G x 1 x 1."""
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
        """Raises CdlError: Codec.compress knows the third string."""
        raise CdlError("CompressAI codes no global vector: use Codec.compress and decompress")

    decompress = compress

    @classmethod
    def sizes_of(cls, state_dict: Mapping[str, torch.Tensor]) -> dict[str, int]:
        """Return the arguments that make a network of the size that its weights have."""
        return {**super().sizes_of(state_dict), "G": len(state_dict["global_bottleneck.quantiles"])}


NETWORKS = {"zhang2022": GenerativeHyperprior, "zhang2022-layered": LayeredGenerativeHyperprior}
