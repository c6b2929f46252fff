"""Latents of codecs that were trained apart, brought to the meaning of one of them.

The channels of one codec have nothing to do with those of another. But each is close to a linear
code of the image, and so is, nearly, the way from one latent to the other: it is fitted, as a
bridge is, to latents of the same images.

Shapes: M latent channels, h x w cells of 16 x 16 pixels.
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
    """A convolution for each codec but one, whose latents the others' are made alike.

    It does not learn by gradients; until it is fitted, latents stay as they are. It is part of the
    state dict.

    Args:
        identities: of the same codec at several qualities, the highest of which is aimed at; an
            item that does not say whose latent it has is of the first.
        channels: M.
    """

    def __init__(self, identities: Sequence[CodecIdentity], channels: int):
        super().__init__()
        self._assumed = identities[0]
        self.target = max(identities, key=lambda identity: identity.quality)
        self.maps = nn.ModuleDict()
        for identity in sorted(set(identities) - {self.target}, key=str):
            convolution = nn.Conv2d(channels, channels, WINDOW, padding=WINDOW // 2)
            nn.init.dirac_(convolution.weight)
            nn.init.zeros_(convolution.bias)
            self.maps[str(identity.quality)] = convolution.requires_grad_(False)
        self.register_buffer("is_fitted", torch.tensor(False))

    def forward(self, y_hat: torch.Tensor, identity: CodecIdentity) -> torch.Tensor:
        """From a codec's latent, M x h x w, to what the target's is of the same image, nearly."""
        if identity == self.target:
            return y_hat
        return self.maps[str(identity.quality)](y_hat[None])[0]

    def of_item(self, item: dict[str, Any]) -> dict[str, Any]:
        """An encoded item with its latent of the target's meaning."""
        latent, identity = item["latent"], item.get("codec_identity", self._assumed)
        return item | {"latent": self(latent.to(self.is_fitted.device), identity)}

    @torch.no_grad()
    def fit(self, images: Iterable[Mapping[CodecIdentity, torch.Tensor]]) -> None:
        """Set the maps to those of the least squared error over all cells; processes of a
        distributed run add up what each has seen.

        Args:
            images: of each, y_hat of every codec, M x h x w.

        Raises:
            CdlError: if there are fewer cells than a map has unknowns; see Regression.solve.
        """
        regressions = {quality: Regression() for quality in self.maps}
        for latents in images:
            target = latents[self.target].flatten(1).T
            for identity, y_hat in latents.items():
                if identity != self.target:
                    windows = F.unfold(y_hat[None], WINDOW, padding=WINDOW // 2)[0].T
                    regressions[str(identity.quality)].add(windows, target)
        for quality, convolution in self.maps.items():
            found = regressions[quality].over_processes().solve(convolution.out_channels)
            weight = (found.reduce @ found.expand).T
            convolution.weight.copy_(weight.reshape(convolution.weight.shape))
            convolution.bias.copy_(found.bias)
        self.is_fitted.fill_(True)


def translation_for(network: nn.Module, shown: CodedInput) -> LatentTranslation | None:
    """What a network needs before its linear bridge, which stands for one codec, if it is shown
    latents of several; not of one network's several rates, which have one meaning."""
    weights = {identity.weights for identity in shown.identities}
    if len(weights) < 2 or not any(isinstance(each, LinearBridge) for each in network.modules()):
        return None
    return LatentTranslation(shown.identities, shown.codec.latent_channels)
