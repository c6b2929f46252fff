"""Channel selection in a Detectron2 model: its config, temperature schedule and rate."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import get_event_storage
from torch import nn

from cdl_d2.codec import Codec
from cdl_d2.codec.bitstream.layers import check_layered
from cdl_d2.d2.model_input import build_codec
from cdl_d2.errors import CdlError
from cdl_d2.nn.selection.channel_ranking import ChannelRanking
from cdl_d2.nn.selection.channel_selection import ChannelGate, FixedChannels

GATE_FROM_STORE = (
    "a gate learns from the bits of each channel, which stored latents do not have: set "
    "INPUT.LATENT_SOURCE model or mapper, or MODEL.SELECTION.RATE_WEIGHT 0"
)
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

    @property
    def needs_bits(self) -> bool:
        """Whether training needs the bits of each channel."""
        return bool(self._rate_weight)

    def forward(self, item: dict[str, Any]) -> dict[str, Any]:
        """An item with the selected channels of its `latent`, M x h x w, the others zero.

        An item whose latent has some channels only, those of its `channel_mask`, was gated when it
        was coded: a gate keeps them.

        Returns:
            a copy of the item with `choice`, M of 0 and 1, with gradients in training; `channels`,
            how many are selected; and `bits`, the estimated bits of these and of the hyperprior. A
            stored latent or bitstream keeps the bits that it has.

        Raises:
            CdlError: if the item lacks channels of a fixed selection.
        """
        choice = self.choose(item)
        latent = item["latent"] * choice[:, None, None]
        extra = {"latent": latent, "choice": choice, "channels": int(choice.detach().sum())}
        if "channel_bits" in item:
            chosen = choice.detach().cpu() * item["channel_bits"].cpu()
            extra["bits"] = float(chosen.sum() + item["side_bits"])
        return item | extra

    def choose(self, item: dict[str, Any]) -> torch.Tensor:
        """The choice for an item, M of 0 and 1; raises as forward."""
        latent, mask = item["latent"], item.get("channel_mask")
        if mask is not None:
            mask = mask.to(latent.device)
        if isinstance(self.chooser, ChannelGate):
            if mask is not None:
                return mask.to(latent.dtype)
            if self.training:
                self._anneal()
        choice = self.chooser(latent[None])[0, :, 0, 0]
        if mask is not None and (choice.bool() & ~mask).any():
            missing = (choice.bool() & ~mask).nonzero()[:, 0].tolist()
            raise CdlError(
                f"the latent lacks the channels {missing}, which this model looks at: code the "
                "image with all channels of MODEL.SELECTION.CHANNELS"
            )
        return choice

    def _anneal(self) -> None:
        """Let the temperature follow the iteration."""
        done = min(get_event_storage().iter / max(self._iterations - 1, 1), 1.0)
        first, last = self._temperatures
        self.chooser.anneal(first * (last / first) ** done)

    def losses(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """`loss_rate`, the weighted bits per pixel of a gate's choice for selected items.

        Raises:
            CdlError: if an item does not say the bits of its channels.
        """
        if not self.needs_bits:
            return {}
        if not all("channel_bits" in item for item in items):
            raise CdlError(GATE_FROM_STORE)
        choices = torch.stack([item["choice"] for item in items])
        bits = torch.stack([item["channel_bits"].to(choices) for item in items])
        pixels = sum(item["image_size"][0] * item["image_size"][1] for item in items)
        side = sum(item["side_bits"] for item in items)
        return {"loss_rate": self._rate_weight * ((choices * bits).sum() + side) / pixels}


def build_selection(cfg: CfgNode, codec: Codec | None) -> SelectedChannels | None:
    """The selection of MODEL.SELECTION, or None for all channels.

    Raises:
        CdlError: for an unknown kind, channels that the codec does not have or cannot code
            without the others, or no latents.
        FileNotFoundError: if MODEL.SELECTION.FILE does not exist.
    """
    keys = cfg.MODEL.SELECTION
    if keys.KIND not in KINDS:
        raise CdlError(f"MODEL.SELECTION.KIND {keys.KIND!r} is not one of {', '.join(KINDS)}")
    if keys.KIND == "none":
        return None
    if cfg.INPUT.DOMAIN != "latent":
        raise CdlError(f"channels are selected of latents, not of domain {cfg.INPUT.DOMAIN!r}")
    check_layered(codec)
    if keys.KIND == "fixed":
        channels = _fixed_channels(keys, codec)
        try:
            return SelectedChannels(FixedChannels(codec.latent_channels, channels))
        except ValueError as error:
            raise CdlError(f"MODEL.SELECTION.CHANNELS: {error}") from error
    temperatures = tuple(keys.TEMPERATURES)
    numbers = [type(each) in (int, float) and each > 0 for each in temperatures]
    if len(numbers) != 2 or not all(numbers):
        raise CdlError(f"MODEL.SELECTION.TEMPERATURES {temperatures}: two above 0 are needed")
    if keys.RATE_WEIGHT < 0 or keys.LR_FACTOR < 0:
        raise CdlError(
            f"MODEL.SELECTION.RATE_WEIGHT {keys.RATE_WEIGHT} and LR_FACTOR {keys.LR_FACTOR} must "
            "not be below 0"
        )
    if cfg.INPUT.LATENT_SOURCE == "store" and keys.RATE_WEIGHT:
        raise CdlError(GATE_FROM_STORE)
    gate = ChannelGate(codec.latent_channels, bias=keys.BIAS)
    schedule = temperatures, cfg.SOLVER.MAX_ITER
    return SelectedChannels(gate, keys.RATE_WEIGHT, *schedule)


def keep_channels(cfg: CfgNode) -> None:
    """Put the numbers of the channels in the place of MODEL.SELECTION.FILE, so that a trained model
    needs the file no more; raises as build_selection."""
    keys = cfg.MODEL.SELECTION
    if keys.KIND == "fixed" and keys.FILE:
        keys.CHANNELS = _fixed_channels(keys, build_codec(cfg))
        keys.FILE, keys.COUNT = "", 0


def _fixed_channels(keys: CfgNode, codec: Codec) -> list[int]:
    channels = list(keys.CHANNELS)
    if keys.FILE and not channels:
        return ChannelRanking.load(keys.FILE, codec.identity).most_wanted(keys.COUNT)
    if keys.FILE or not channels or not all(type(channel) is int for channel in channels):
        raise CdlError(
            f"MODEL.SELECTION.CHANNELS {channels}, FILE {keys.FILE!r}: KIND fixed needs one of "
            "them, numbers of channels, such as `cdl latents select` prints, or its file"
        )
    return channels
