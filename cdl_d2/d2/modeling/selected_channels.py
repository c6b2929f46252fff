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
from cdl_d2.errors import CdlError, check_choice, with_advice
from cdl_d2.nn.selection.channel_ranking import ChannelRanking
from cdl_d2.nn.selection.channel_selection import ChannelGate, FixedChannels

GATE_FROM_STORE = (
    "a gate learns from the bits of each channel, which stored latents do not have: set "
    "INPUT.LATENT_SOURCE model or mapper, or MODEL.SELECTION.RATE_WEIGHT 0"
)
KINDS = ("none", "gate", "fixed")


class SelectedChannels(nn.Module):
    """Dynamic (gate) or static channel selection, with the rate of the selected channels.

    Args:
        chooser: maps y_hat to N x M x 1 x 1 of 0 and 1.
        rate_weight: weight of bits per pixel in a gate's loss.
        temperatures: a gate's temperatures at the first and the last iteration.
        iterations: number of training iterations.

    Attributes:
        needs_bits: training needs the bits of each channel.
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
        self.needs_bits = bool(rate_weight)

    def forward(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Set the channels of a sample's `latent`, M x h x w, to zero that are not selected.

        A gate keeps the channels of a latent that was gated when it was encoded, as recorded in
        `channel_mask`.

        Returns:
            a copy of the sample with `choice`, M of 0 and 1, with gradients in training;
            `channels`, the number of selected channels; and `bits`, the estimated bits of these and
            of the hyperprior. Stored latents and bitstreams keep their bits.

        Raises:
            CdlError: if the sample lacks channels of a static selection.
        """
        choice = self.choose(sample)
        latent = sample["latent"] * choice[:, None, None]
        selected = {"latent": latent, "choice": choice, "channels": int(choice.detach().sum())}
        if "channel_bits" in sample:
            bits = choice.detach().cpu() * sample["channel_bits"].cpu()
            selected["bits"] = float(bits.sum() + sample["side_bits"])
        return sample | selected

    def choose(self, sample: dict[str, Any]) -> torch.Tensor:
        """Return the selection for a sample, M of 0 and 1.

        Raises:
            CdlError: if the sample lacks channels of a static selection.
        """
        latent, mask = sample["latent"], sample.get("channel_mask")
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
                f"the latent lacks the channels {missing}, which this model reads: encode the "
                "image with all channels of MODEL.SELECTION.CHANNELS"
            )
        return choice

    def _anneal(self) -> None:
        """Set the gate's temperature for the current iteration."""
        progress = min(get_event_storage().iter / max(self._iterations - 1, 1), 1.0)
        first, last = self._temperatures
        self.chooser.anneal(first * (last / first) ** progress)

    def losses(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return `loss_rate`, the weighted bits per pixel of the channels that a gate selected.

        Raises:
            CdlError: if a sample has no bits of its channels.
        """
        if not self.needs_bits:
            return {}
        if not all("channel_bits" in sample for sample in samples):
            raise CdlError(GATE_FROM_STORE)
        choices = torch.stack([sample["choice"] for sample in samples])
        bits = torch.stack([sample["channel_bits"].to(choices) for sample in samples])
        pixels = sum(sample["image_size"][0] * sample["image_size"][1] for sample in samples)
        side = sum(sample["side_bits"] for sample in samples)
        return {"loss_rate": self._rate_weight * ((choices * bits).sum() + side) / pixels}


def build_selection(cfg: CfgNode, codec: Codec | None) -> SelectedChannels | None:
    """Build the selection of MODEL.SELECTION; None for all channels.

    Raises:
        CdlError: for an unknown kind, invalid options, a domain without latents, or channels that
            the codec does not have or cannot code without the others.
        FileNotFoundError: if MODEL.SELECTION.FILE does not exist.
    """
    keys = cfg.MODEL.SELECTION
    check_choice("MODEL.SELECTION.KIND", keys.KIND, KINDS)
    if keys.KIND == "none":
        return None
    if cfg.INPUT.DOMAIN != "latent":
        raise CdlError(f"MODEL.SELECTION needs INPUT.DOMAIN latent, not {cfg.INPUT.DOMAIN!r}")
    check_layered(codec)
    if keys.KIND == "fixed":
        channels = _fixed_channels(keys, codec)
        try:
            return SelectedChannels(FixedChannels(codec.latent_channels, channels))
        except ValueError as error:
            raise CdlError(f"MODEL.SELECTION.CHANNELS: {error}") from error
    temperatures = tuple(keys.TEMPERATURES)
    valid = [type(value) in (int, float) and value > 0 for value in temperatures]
    if len(valid) != 2 or not all(valid):
        raise CdlError(f"MODEL.SELECTION.TEMPERATURES {temperatures}, expected two above 0")
    if keys.RATE_WEIGHT < 0 or keys.LR_FACTOR < 0:
        raise CdlError(
            f"MODEL.SELECTION.RATE_WEIGHT {keys.RATE_WEIGHT} and LR_FACTOR {keys.LR_FACTOR} must "
            "not be below 0"
        )
    if cfg.INPUT.LATENT_SOURCE == "store" and keys.RATE_WEIGHT:
        raise CdlError(GATE_FROM_STORE)
    gate = ChannelGate(codec.latent_channels, bias=keys.BIAS)
    return SelectedChannels(gate, keys.RATE_WEIGHT, temperatures, cfg.SOLVER.MAX_ITER)


def keep_channels(cfg: CfgNode) -> None:
    """Replace MODEL.SELECTION.FILE by the channels in it, so that a model no longer needs it."""
    keys = cfg.MODEL.SELECTION
    if keys.KIND == "fixed" and keys.FILE:
        keys.CHANNELS = _fixed_channels(keys, build_codec(cfg))
        keys.FILE, keys.COUNT = "", 0


def _fixed_channels(keys: CfgNode, codec: Codec) -> list[int]:
    channels = list(keys.CHANNELS)
    if keys.FILE and not channels:
        with with_advice(f"write it by `cdl latents select --output {keys.FILE}`"):
            ranking = ChannelRanking.load(keys.FILE, codec.identity)
        return ranking.top_channels(keys.COUNT)
    if keys.FILE or not channels or not all(type(channel) is int for channel in channels):
        raise CdlError(
            f"MODEL.SELECTION.CHANNELS {channels}, FILE {keys.FILE!r}: KIND fixed needs one of "
            "them: the channels that `cdl latents select` prints, or its file"
        )
    return channels
