"""First layer of every latent model: checks and normalizes its input."""

from __future__ import annotations

import torch
from torch import nn

from cdl_d2.codec.latent import CodecIdentity
from cdl_d2.errors import CdlError
from cdl_d2.nn.input.codec_stamp import CodecStamp, format_identities


class LatentInput(nn.Module):
    """Per-channel normalization of y_hat, and the identity of its codec; both are state.

    Args:
        channels: number of channels M of y_hat.
        identity: codec of the latents, to which CodedInput.stamp adds other qualities; None for
            any.
        mean, std: per-channel statistics of y_hat; default 0 and 1.

    Raises:
        CdlError: for statistics of another number of channels.
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
                    "channels: compute them with this codec"
                )
        self.register_buffer("mean", mean.float().clone())
        self.register_buffer("std", std.float().clone())
        self.codec = CodecStamp(*[identity] if identity else [])

    @property
    def identities(self) -> tuple[CodecIdentity, ...]:
        """Identities of the codec at all qualities that the network reads; empty for any codec."""
        return self.codec.identities

    def forward(self, y_hat: torch.Tensor) -> torch.Tensor:
        """Normalize y_hat, N x M x h x w.

        Raises:
            CdlError: if y_hat has another number of channels.
        """
        if y_hat.shape[1] != self.channels:
            reads = format_identities(self.identities) or "latents of another codec"
            raise CdlError(
                f"a latent of {y_hat.shape[1]} channels for a network of {self.channels}: the "
                f"network reads {reads}"
            )
        return (y_hat - self.mean[:, None, None]) / self.std[:, None, None]
