"""Codec weights on disk: read without unpickling objects, written as safetensors."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import torch
from torch import nn

from cdl_d2.errors import CdlError
from cdl_d2.files import write_atomically

# What unpickling a damaged file, or one of another kind, raises.
UNREADABLE = (
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    RuntimeError,
    ValueError,
    pickle.UnpicklingError,
)

# Entropy-coding tables are derived from the weights by `update()`; they are not weights.
DERIVED = ("_quantized_cdf", "_offset", "_cdf_length", "scale_table")


def load_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a state dict from `.safetensors`, or from a PyTorch file with `weights_only`.

    A PyTorch file may hold the tensors themselves (CompressAI's zoo) or a dict with them under
    `state_dict` (CompressAI's training example), `network` (a codec's checkpoint of ours) or
    `model` (Detectron2).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a state dict of plain tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights {path} do not exist: check the path")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise CdlError(f"{path} cannot be read as weights: {first_line(error)}") from error
    except Exception as error:  # safetensors raises a class of its own
        if type(error).__name__ != "SafetensorError":
            raise
        raise CdlError(f"{path} cannot be read as weights: {first_line(error)}") from error
    if isinstance(content, dict):
        nested = [content[k] for k in ("state_dict", "network", "model") if k in content]
        content = nested[0] if nested else content
    if not isinstance(content, dict) or not all(map(torch.is_tensor, content.values())):
        raise CdlError(f"{path} is not a state dict of tensors")
    return content


def save_weights(path: Path, network: nn.Module, details: dict[str, str]) -> None:
    """Write a network's weights, without derived tables, and `details` as safetensors metadata."""
    from safetensors.torch import save_file

    tensors = {k: v.contiguous().cpu() for k, v in _weights(network).items()}
    with write_atomically(path) as temporary:
        save_file(tensors, temporary, metadata=details)


def fingerprint(network: nn.Module) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of all weights, names and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_weights(network).items()):
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype};".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _weights(network: nn.Module) -> dict[str, torch.Tensor]:
    state = network.state_dict()
    return {k: v for k, v in state.items() if not k.endswith(DERIVED)}


def first_line(error: Exception) -> str:
    """An error's first line, or its class where it says nothing."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if line.startswith("Weights only load failed"):  # and it goes on to advise what is not safe
        return "it is damaged, or holds more than tensors and plain values"
    return line
