"""Channel selection in a Detectron2 model: its config, temperature schedule and rate."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import get_event_storage
from torch import nn

from cdl_d2.codec import Codec
from cdl_d2.nn.channel_selection import ChannelGate, FixedChannels

KINDS = ("none", "gate", "fixed")


class SelectedChannels(nn.Module):
    """A gate or a fixed selection, with the rate of what it lets through.

    Args:
        chooser: from y_hat to N x M x 1 x 1 of 0 and 1.
        rate_weight: of bits per pixel in the loss; only a gate has one.
        temperatures: of a gate, at the first and the last iteration.
        iterations: of the training.
    """

    def __init__(
        self,
        chooser: ChannelGate | FixedChannels,
        rate_weight: float = 0.0,
        temperatures: tuple[float, float] = (1.0, 1.0),
        iterations: int = 1,
    ):
        super().__init__()
        self.chooser, self._rate_weight = chooser, rate_weight
        self._temperatures, self._iterations = temperatures, iterations

    def forward(self, y_hat: torch.Tensor) -> torch.Tensor:
        """The choice, N x M x 1 x 1; in training a gate's temperature follows the iteration."""
        if self.training and isinstance(self.chooser, ChannelGate):
            done = min(get_event_storage().iter / max(self._iterations - 1, 1), 1.0)
            first, last = self._temperatures
            self.chooser.anneal(first * (last / first) ** done)
        return self.chooser(y_hat)

    def bits(self, choice: torch.Tensor, items: list[dict[str, Any]]) -> torch.Tensor:
        """Estimated bits of the selected channels and the hyperprior, N, with gradients.

        Raises:
            ValueError: if an item does not say the bits of its channels.
        """
        lacking = [item for item in items if "channel_bits" not in item]
        if lacking:
            raise ValueError(
                "a selection needs the bits of each channel, which a latent store does not have: "
                "set INPUT.LATENT_SOURCE model or mapper"
            )
        channels = torch.stack([item["channel_bits"].to(choice) for item in items])
        side = torch.tensor([item["side_bits"] for item in items]).to(choice)
        return (choice.flatten(1) * channels).sum(1) + side

    def losses(self, choice: torch.Tensor, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """`loss_rate`, the weighted bits per pixel of a gate's choice."""
        if not self._rate_weight:
            return {}
        pixels = [item["image_size"][0] * item["image_size"][1] for item in items]
        rate = self.bits(choice, items).sum() / sum(pixels)
        return {"loss_rate": self._rate_weight * rate}


def build_selection(cfg: CfgNode, codec: Codec | None) -> SelectedChannels | None:
    """The selection of MODEL.SELECTION, or None for all channels.

    Raises:
        ValueError: for an unknown kind, channels that the codec does not have, or no latents.
    """
    keys = cfg.MODEL.SELECTION
    if keys.KIND not in KINDS:
        raise ValueError(f"MODEL.SELECTION.KIND {keys.KIND!r} is not one of {', '.join(KINDS)}")
    if keys.KIND == "none":
        return None
    if cfg.INPUT.DOMAIN != "latent":
        raise ValueError(f"channels are selected of latents, not of domain {cfg.INPUT.DOMAIN!r}")
    if keys.KIND == "fixed":
        if not keys.CHANNELS:
            raise ValueError("MODEL.SELECTION.KIND fixed needs MODEL.SELECTION.CHANNELS")
        return SelectedChannels(FixedChannels(codec.latent_channels, list(keys.CHANNELS)))
    if len(keys.TEMPERATURES) != 2 or min(keys.TEMPERATURES) <= 0:
        raise ValueError(
            f"MODEL.SELECTION.TEMPERATURES {tuple(keys.TEMPERATURES)}: two above 0 are needed"
        )
    gate = ChannelGate(codec.latent_channels)
    schedule = tuple(keys.TEMPERATURES), cfg.SOLVER.MAX_ITER
    return SelectedChannels(gate, keys.RATE_WEIGHT, *schedule)
