"""Which channels of a latent a task needs (section 2.2 of *Semantic Segmentation in Learned
Compressed Domain*).

Shapes: N images, M latent channels, h x w cells.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn

from cdl_d2.errors import CdlError


class ChannelGate(nn.Module):
    """Dynamic selection: looks at a latent and chooses channels for this image (figure 3).

    ```
    y_hat -> average pool -> 1x1 conv -> ReLU -> 1x1 conv -> 2M logits (drop | keep) -> 0 or 1
    ```

    In training the choice is drawn by straight-through Gumbel-softmax; in evaluation it is the
    likelier one, the same on every run.

    The paper says neither the channels between the convolutions, nor what is between them, nor the
    temperature, nor how the gate starts. Its losses (formula 3) do not ask for fewer channels:
    `bias` 0 and temperature 1 leave its gate as it is drawn. A rate term, temperatures that fall,
    `bias` and a learning rate of the gate's own are ours (`MODEL.SELECTION`).

    Args:
        channels: M.
        hidden: channels between the two convolutions; default a quarter of M.
        temperature: of the Gumbel-softmax, above 0; see `anneal`.
        bias: logit with which each channel is kept at the start, and minus the one with which it is
            dropped: 1 keeps 88 % of them, 0 half.

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
        """Set the temperature: high explores, low is nearly a hard choice."""
        if not temperature > 0:
            raise CdlError(f"temperature {temperature} of the gate is not above 0")
        self.temperature = temperature

    def forward(self, y_hat: torch.Tensor) -> torch.Tensor:
        """The choice for y_hat, N x M x h x w: N x M x 1 x 1 of 0 and 1, with gradients.

        Raises:
            CdlError: if y_hat has another number of channels.
        """
        logits = self._logits(y_hat)
        if self.training:
            choice = F.gumbel_softmax(logits, tau=self.temperature, hard=True, dim=1)[:, 1]
        else:
            choice = (logits[:, 1] > logits[:, 0]).to(y_hat.dtype)
        return choice

    def keep_probability(self, y_hat: torch.Tensor) -> torch.Tensor:
        """How likely each channel of y_hat, N x M x h x w, is kept: N x M x 1 x 1."""
        return self._logits(y_hat).softmax(dim=1)[:, 1]

    def _logits(self, y_hat: torch.Tensor) -> torch.Tensor:
        """To drop and to keep, N x 2 x M x 1 x 1."""
        _check_channels(y_hat, self.channels)
        pooled = y_hat.mean(dim=(2, 3), keepdim=True)
        scores = self.score(pooled).float()  # Gumbel noise in half precision can be infinite
        return scores.unflatten(1, (2, self.channels))


class FixedChannels(nn.Module):
    """Static selection: the same channels of every image, kept with the model's state.

    Args:
        channels: M.
        kept: indices of the channels; none for those of the first state that is loaded.

    Raises:
        CdlError: for an index that is not one of 0..M - 1, or comes twice.
    """

    def __init__(self, channels: int, kept: torch.Tensor):
        super().__init__()
        kept = torch.as_tensor(kept, dtype=torch.long)
        if len(kept.unique()) < len(kept) or ((kept < 0) | (kept >= channels)).any():
            raise CdlError(
                f"kept channels {kept.tolist()} are not different ones of 0..{channels - 1}"
            )
        self.channels = channels
        self.register_buffer("mask", torch.zeros(channels, dtype=torch.bool))
        self.mask[kept] = True

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        """A state without a selection takes this one; one with another is refused."""
        stored = state_dict.setdefault(prefix + "mask", self.mask)
        if self.mask.any() and not torch.equal(stored.bool().cpu(), self.mask.cpu()):
            raise CdlError(
                f"the checkpoint keeps the channels {stored.nonzero()[:, 0].tolist()}, this model "
                f"{self.mask.nonzero()[:, 0].tolist()}: give the same MODEL.SELECTION.CHANNELS"
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def forward(self, y_hat: torch.Tensor) -> torch.Tensor:
        """The choice for y_hat, N x M x h x w: N x M x 1 x 1 of 0 and 1.

        Raises:
            CdlError: if y_hat has another number of channels.
        """
        _check_channels(y_hat, self.channels)
        return self.mask.to(y_hat.dtype)[:, None, None].expand(len(y_hat), -1, 1, 1)


def gate_scores(
    gate: ChannelGate, latents: Iterable[tuple[torch.Tensor, torch.Tensor]]
) -> torch.Tensor:
    """How often a gate chooses each channel where it carries a bit or more.

    Nothing teaches a gate to drop a channel that is empty, as some of a codec often are: a choice
    of it does not count.

    Args:
        latents: y_hat, M x h x w, and the bits of its channels, M.

    Returns:
        M numbers: the counts, whole ones, plus the mean probability of such a choice, which orders
        channels that are chosen equally often.

    Raises:
        CdlError: without any latent.
    """
    chosen, likely, count = 0, 0, 0
    for latent, bits in latents:
        full = bits.to(latent.device) >= 1
        chosen = chosen + gate(latent[None]).flatten() * full
        likely = likely + gate.keep_probability(latent[None]).flatten() * full
        count += 1
    if not count:
        raise CdlError("no latents to count the choices of")
    return chosen + 0.999 * likely / count


def _check_channels(y_hat: torch.Tensor, channels: int) -> None:
    if y_hat.shape[1] != channels:
        raise CdlError(
            f"a latent of {y_hat.shape[1]} channels for a selection among {channels}: it belongs "
            "to another codec"
        )
