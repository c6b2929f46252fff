"""The first layer of every network on latents: checks what it is fed, and may normalize it."""

from __future__ import annotations

import torch
from torch import nn

from cdl_d2.codec.latent import CodecIdentity
from cdl_d2.errors import CdlError
from cdl_d2.nn.input.codec_stamp import CodecStamp, in_words


class LatentInput(nn.Module):
    """Per-channel normalization of y_hat, and the identity of the codec that made it.

    Both are part of the state dict.

    Args:
        channels: channels M of y_hat.
        identity: the codec of the latents; CodedInput.stamp adds those of other qualities.
        mean, std: per-channel statistics of y_hat; default 0 and 1.
    """

    def __init__(
        self,
        channels: int,
        identity: CodecIdentity | None = None,
        mean: torch.Tensor | None = None,
        std: torch.Tensor | None = None,
    ):
        super().__init__()
        self.channels = channels
        mean = torch.zeros(channels) if mean is None else mean
        std = torch.ones(channels) if std is None else std
        for statistic in (mean, std):
            if tuple(statistic.shape) != (channels,):
                raise CdlError(
                    f"latent statistics of shape {tuple(statistic.shape)} do not fit {channels} "
                    "channels: compute them with this codec (`cdl latents statistics`)"
                )
        self.register_buffer("mean", mean.float().clone())
        self.register_buffer("std", std.float().clone())
        self.codec = CodecStamp(*[identity] if identity else [])

    @property
    def identities(self) -> tuple[CodecIdentity, ...]:
        """The codec whose latents this network reads, at all qualities that it reads; empty if it
        is not committed to one."""
        return self.codec.identities

    def forward(self, y_hat: torch.Tensor) -> torch.Tensor:
        """Normalize y_hat, N x M x h x w.

        Raises:
            CdlError: if y_hat has another number of channels.
        """
        if y_hat.shape[1] != self.channels:
            reads = in_words(self.identities) or "latents of another codec"
            raise CdlError(
                f"a latent of {y_hat.shape[1]} channels for a network of {self.channels}: the "
                f"network reads {reads}"
            )
        return (y_hat - self.mean[:, None, None]) / self.std[:, None, None]
