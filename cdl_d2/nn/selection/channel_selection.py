"""Dynamic and static selection of latent channels.

Section 2.2 of *Semantic Segmentation in Learned Compressed Domain*.

Shapes: N images, M latent channels, h x w latent positions.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn

from cdl_d2.errors import CdlError


class ChannelGate(nn.Module):
    """Dynamic selection: a gate that selects channels for each image by its latent (figure 3).

    ```
    y_hat -> average pool -> 1x1 conv -> ReLU -> 1x1 conv -> 2M logits (drop | keep) -> 0 or 1
    ```

    In training the selection is sampled by straight-through Gumbel-softmax; in evaluation it is the
    more probable one.

    The paper gives neither the hidden layer, nor the temperature, nor the initialization, and its
    losses (formula 3) do not ask for fewer channels. `bias` 0 and temperature 1 are nearest to it;
    a rate loss, decreasing temperatures, a bias and a learning rate for the gate are ours.

    Args:
        channels: number of latent channels M.
        hidden: channels between the two convolutions; default a quarter of M.
        temperature: temperature of the Gumbel-softmax, above 0.
        bias: initial logit of "keep", and minus that of "drop": 1 keeps 88 % of the channels, 0
            half.

    Raises:
        CdlError: for a temperature that is not above 0.
    """

    def __init__(
        self,
        channels: int,
        hidden: int | None = None,
        temperature: float = 1.0,
        bias: float = 1.0,
    ):
        super().__init__()
        hidden = hidden or max(channels // 4, 1)
        self.channels = channels
        self.score = nn.Sequential(
            nn.Conv2d(channels, hidden, kernel_size=1),
            nn.ReLU(),
            nn.Conv2d(hidden, 2 * channels, kernel_size=1),
        )
        with torch.no_grad():
            self.score[2].bias.copy_(torch.tensor([-bias, bias]).repeat_interleave(channels))
        self.anneal(temperature)

    def anneal(self, temperature: float) -> None:
        """Set the temperature: high values explore, low values are nearly deterministic."""
        if not temperature > 0:
            raise CdlError(f"temperature {temperature} of the gate is not above 0")
        self.temperature = temperature

    def forward(self, y_hat: torch.Tensor) -> torch.Tensor:
        """Return the selection of y_hat, N x M x h x w, as N x M x 1 x 1 of 0 and 1."""
        logits = self._logits(y_hat)
        if self.training:
            return F.gumbel_softmax(logits, tau=self.temperature, hard=True, dim=1)[:, 1]
        return (logits[:, 1] > logits[:, 0]).to(y_hat.dtype)

    def keep_probability(self, y_hat: torch.Tensor) -> torch.Tensor:
        """Return the probability to keep each channel of y_hat, N x M x 1 x 1."""
        return self._logits(y_hat).softmax(dim=1)[:, 1]

    def _logits(self, y_hat: torch.Tensor) -> torch.Tensor:
        """Return the logits of "drop" and "keep", N x 2 x M x 1 x 1."""
        _check_channels(y_hat, self.channels)
        pooled = y_hat.mean(dim=(2, 3), keepdim=True)
        scores = self.score(pooled).float()  # Gumbel noise in half precision can be infinite
        return scores.unflatten(1, (2, self.channels))


class FixedChannels(nn.Module):
    """Static selection: the same channels of every image, part of the model's state.

    Args:
        channels: number of latent channels M.
        kept: indices of the channels; empty to adopt those of the state that is loaded.

    Raises:
        CdlError: for an index outside of 0..M - 1, or a repeated one.
    """

    def __init__(self, channels: int, kept: torch.Tensor):
        super().__init__()
        kept = torch.as_tensor(kept, dtype=torch.long)
        if len(kept.unique()) < len(kept) or ((kept < 0) | (kept >= channels)).any():
            raise CdlError(
                f"kept channels {kept.tolist()} are not distinct numbers of 0..{channels - 1}"
            )
        self.channels = channels
        self.register_buffer("mask", torch.zeros(channels, dtype=torch.bool))
        self.mask[kept] = True

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        stored = state_dict.setdefault(prefix + "mask", self.mask)
        if self.mask.any() and not torch.equal(stored.bool().cpu(), self.mask.cpu()):
            raise CdlError(
                f"the checkpoint selects channels {stored.nonzero()[:, 0].tolist()}, this model "
                f"{self.mask.nonzero()[:, 0].tolist()}: select the same channels"
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def forward(self, y_hat: torch.Tensor) -> torch.Tensor:
        """Return the selection for y_hat, N x M x h x w: N x M x 1 x 1 of 0 and 1."""
        _check_channels(y_hat, self.channels)
        return self.mask.to(y_hat.dtype)[:, None, None].expand(len(y_hat), -1, 1, 1)


def gate_scores(
    gate: ChannelGate, latents: Iterable[tuple[torch.Tensor, torch.Tensor]]
) -> torch.Tensor:
    """Count how often a gate selects each channel where the channel carries a bit or more.

    Selections of empty channels do not count: no loss makes a gate drop them.

    Args:
        gate: a gate in evaluation mode.
        latents: pairs of y_hat, M x h x w, and the bits of its channels, M.

    Returns:
        M numbers: the counts plus the mean probability of such a selection, below 1, which ranks
        channels with equal counts.

    Raises:
        CdlError: without any latent.
    """
    selected, probability, count = 0, 0, 0
    for latent, bits in latents:
        carries_bits = bits.to(latent.device) >= 1
        selected = selected + gate(latent[None]).flatten() * carries_bits
        probability = probability + gate.keep_probability(latent[None]).flatten() * carries_bits
        count += 1
    if not count:
        raise CdlError("no latents to count a gate's selections of")
    return selected + 0.999 * probability / count


def _check_channels(y_hat: torch.Tensor, channels: int) -> None:
    if y_hat.shape[1] != channels:
        raise CdlError(
            f"a latent of {y_hat.shape[1]} channels, expected {channels}: it is of another codec"
        )
