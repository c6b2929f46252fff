"""Linear maps from the latents of separately trained codecs to the latent space of one of them.

Channels of different codecs are unrelated, but each latent is close to a linear code of the image,
and so the map between two latents is close to linear. It is fitted in closed form to latents of the
same images.

Shapes: M latent channels, h x w latent positions of 16 x 16 pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cdl_d2.codec.latent import CodecIdentity
from cdl_d2.nn.bridge.linear_bridge import WINDOW, LinearBridge
from cdl_d2.nn.bridge.regression import Regression
from cdl_d2.nn.input.coded_input import CodedInput


class LatentTranslation(nn.Module):
    """A convolution for each codec, into the latent space of the codec of the highest quality.

    It is part of the state dict and has no gradients. It is the identity until it is fitted.

    Args:
        identities: identities of a codec at several qualities; samples without `codec_identity` are
            of the first.
        channels: number of latent channels M.
    """

    def __init__(self, identities: Sequence[CodecIdentity], channels: int):
        super().__init__()
        self._default = identities[0]
        self.target = max(identities, key=lambda identity: identity.quality)
        self.maps = nn.ModuleDict()
        for identity in sorted(set(identities) - {self.target}, key=str):
            convolution = nn.Conv2d(channels, channels, WINDOW, padding=WINDOW // 2)
            nn.init.dirac_(convolution.weight)
            nn.init.zeros_(convolution.bias)
            self.maps[str(identity.quality)] = convolution.requires_grad_(False)
        self.register_buffer("is_fitted", torch.tensor(False))

    def forward(self, y_hat: torch.Tensor, identity: CodecIdentity) -> torch.Tensor:
        """Map a codec's latent, M x h x w, to the target's latent space."""
        if identity == self.target:
            return y_hat
        return self.maps[str(identity.quality)](y_hat[None])[0]

    def translate_sample(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return an encoded sample with its latent in the target's latent space."""
        latent, identity = sample["latent"], sample.get("codec_identity", self._default)
        return sample | {"latent": self(latent.to(self.is_fitted.device), identity)}

    @torch.no_grad()
    def fit(self, images: Iterable[Mapping[CodecIdentity, torch.Tensor]]) -> None:
        """Fit the maps by least squares over all latent positions of a distributed run.

        Args:
            images: y_hat, M x h x w, by each codec, for each image.

        Raises:
            CdlError: if there are fewer positions than a map has unknowns, or values are not
                finite.
        """
        regressions = {quality: Regression() for quality in self.maps}
        for latents in images:
            target = latents[self.target].flatten(1).T
            for identity, y_hat in latents.items():
                if identity != self.target:
                    windows = F.unfold(y_hat[None], WINDOW, padding=WINDOW // 2)[0].T
                    regressions[str(identity.quality)].add(windows, target)
        for quality, convolution in self.maps.items():
            solution = regressions[quality].sum_over_processes().solve(convolution.out_channels)
            weight = (solution.reduce @ solution.expand).T
            convolution.weight.copy_(weight.reshape(convolution.weight.shape))
            convolution.bias.copy_(solution.bias)
        self.is_fitted.fill_(True)


def build_translation(network: nn.Module, coded_input: CodedInput) -> LatentTranslation | None:
    """Return a LatentTranslation for a network with a linear bridge and several codecs, else None.

    Qualities of one variable-rate codec share a latent space and need no translation.
    """
    weights = {identity.weights for identity in coded_input.identities}
    if len(weights) < 2 or not any(isinstance(m, LinearBridge) for m in network.modules()):
        return None
    return LatentTranslation(coded_input.identities, coded_input.channels)
