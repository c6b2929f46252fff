"""The first layer of every network on latents: checks what it is fed, and may normalize it."""

from __future__ import annotations

import json

import torch
from torch import nn

from cdl_d2.codec.latent import CodecIdentity

_IDENTITY_BYTES = 256


class LatentInput(nn.Module):
    """Per-channel normalization of y_hat, and the identity of the codec that made it.

    Both are part of the state dict. Loading a state whose codec is another raises ValueError, so
    a model trained on one meaning of y_hat is never fed the other by mistake.

    Args:
        channels: channels M of y_hat.
        identity: the codec of the latents; None leaves the model uncommitted (it then adopts the
            identity of the first checkpoint it loads).
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
                raise ValueError(
                    f"latent statistics of shape {tuple(statistic.shape)} do not fit {channels} "
                    "channels: compute them with this codec (tools/latent_statistics.py)"
                )
        self.register_buffer("mean", mean.float().clone())
        self.register_buffer("std", std.float().clone())
        self.register_buffer("codec", _to_bytes(identity))

    @property
    def identity(self) -> CodecIdentity | None:
        """The codec whose latents this network reads, or None if not committed to one."""
        return _from_bytes(self.codec)

    def forward(self, y_hat: torch.Tensor) -> torch.Tensor:
        """Normalize y_hat, N x M x h x w.

        Raises:
            ValueError: if y_hat has another number of channels.
        """
        if y_hat.shape[1] != self.channels:
            raise ValueError(
                f"a latent of {y_hat.shape[1]} channels for a network of {self.channels}: the "
                f"network reads {self.identity or 'latents of another codec'}"
            )
        return (y_hat - self.mean[:, None, None]) / self.std[:, None, None]

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        stored = state_dict.get(prefix + "codec")
        if stored is not None:
            theirs, ours = _from_bytes(stored), self.identity
            if theirs is not None and ours is not None and theirs != ours:
                raise ValueError(f"the checkpoint reads {theirs}; this model is fed {ours}")
            if theirs is None:
                state_dict[prefix + "codec"] = self.codec
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _to_bytes(identity: CodecIdentity | None) -> torch.Tensor:
    text = json.dumps(vars(identity)).encode() if identity else b""
    return torch.tensor(list(text.ljust(_IDENTITY_BYTES)), dtype=torch.uint8)


def _from_bytes(stored: torch.Tensor) -> CodecIdentity | None:
    text = bytes(torch.as_tensor(stored).tolist()).decode().strip()
    return CodecIdentity(**json.loads(text)) if text else None
