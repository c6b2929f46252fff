"""Per-channel mean and standard deviation of latents, and their file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch

from cdl_d2.codec.io.weights_file import save_tensors
from cdl_d2.codec.latent import CodecIdentity
from cdl_d2.errors import CdlError
from cdl_d2.nn.input.codec_stamp import format_identities


def latent_statistics(
    latents: Iterable[torch.Tensor], smallest_std: float = 0.05
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean and standard deviation of each channel over all latent positions.

    Args:
        latents: M x h x w each.
        smallest_std: lower bound of deviations, so that nearly constant channels are not amplified
            into noise.

    Raises:
        CdlError: without any latent.
    """
    count, total, squares = 0, 0.0, 0.0
    for latent in latents:
        values = latent.double().flatten(1)
        count += values.shape[1]
        total = total + values.sum(1)
        squares = squares + values.square().sum(1)
    if not count:
        raise CdlError("no latents to compute statistics from")
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    return mean.float(), std.clamp(min=smallest_std).float()


def save_statistics(
    path: str | Path, mean: torch.Tensor, std: torch.Tensor, codec: CodecIdentity
) -> None:
    """Write statistics with the identity of their codec."""
    save_tensors(path, {"mean": mean, "std": std}, {"codec": json.dumps(vars(codec))})


def load_statistics(path: str | Path, *codecs: CodecIdentity) -> tuple[torch.Tensor, torch.Tensor]:
    """Read the mean and deviation, M each, of the latents of one of some codecs.

    Raises:
        FileNotFoundError: if there is no such file.
        CdlError: if it is no statistics file, or of another codec.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"there are no latent statistics {path}")
    try:
        with safe_open(path, framework="pt") as file:
            identity = CodecIdentity.from_dict(json.loads((file.metadata() or {})["codec"]))
            mean, std = file.get_tensor("mean"), file.get_tensor("std")
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CdlError(f"{path} is not a file of latent statistics: {error}") from error
    if identity not in codecs:
        raise CdlError(f"{path} is of {identity}; this model reads {format_identities(codecs)}")
    return mean, std
