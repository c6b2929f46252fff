"""Weights on disk: read without unpickling objects, written as safetensors."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cdl_d2.codec.packed_weights import read_safetensors
from cdl_d2.errors import CdlError
from cdl_d2.files import write_atomically

ZIP = b"PK\x03\x04"  # how files of torch.save begin, since PyTorch 1.6

# Entropy-coding tables are derived from the weights by `update()`; they are not weights.
TABLES = {"_quantized_cdf", "_offset", "_cdf_length", "scale_table"}
WRAPPER = "module."  # before each name in the state of a DataParallel network


def check_weights_file(path: str | Path) -> None:
    """Raise FileNotFoundError unless there is such a file."""
    if not Path(path).is_file():
        problem = "are a folder, not a file" if Path(path).is_dir() else "do not exist"
        raise FileNotFoundError(f"weights {path} {problem}: check the path")


@contextmanager
def reading_weights(path: str | Path) -> Iterator[None]:
    """Give what reading a damaged file, or one of another kind, raises as one error.

    Raises:
        FileNotFoundError: see check_weights_file.
        CdlError: for what is in the file.
    """
    check_weights_file(path)
    try:
        yield
    except (CdlError, OSError):
        raise
    except Exception as error:  # unpickling damaged files raises errors of nearly every type
        raise CdlError(f"{path} cannot be read as weights: {_first_line(error)}") from error


def read_weights(path: str | Path) -> dict[str, Any]:
    """The tensors and plain values in a `.safetensors` or PyTorch file; no object is unpickled.

    Tensors that packed_weights stored as int8 come back as float32.

    Raises:
        FileNotFoundError, CdlError: as reading_weights; if the file holds no dict, or is damaged.
    """
    with reading_weights(path):
        if Path(path).suffix == ".safetensors":
            return read_safetensors(path)
        _check_records(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise CdlError(f"{path} holds a {type(content).__name__}, not weights")
    return content


def _check_records(path: str | Path) -> None:
    """Compare each record with the checksum that torch.save writes and torch.load does not read.

    Files from before PyTorch 1.6 have none.
    """
    with open(path, "rb") as file:
        if file.read(len(ZIP)) != ZIP:
            return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except OSError as error:  # an offset that leads before the file
        raise CdlError(f"{path} cannot be read as weights: it is damaged ({error})") from error
    if damaged is not None:
        raise CdlError(
            f"{path} is damaged: {damaged} in it has another checksum: copy the file again, or "
            "take an earlier one"
        )


def check_state_dict(state: object, path: str | Path) -> None:
    """Raise CdlError unless this is a dict of plain tensors, or arrays, of finite numbers."""
    if not isinstance(state, dict):
        raise CdlError(f"{path} is not a state dict of tensors")
    for name, values in state.items():
        tensor = _plain_tensor(values) if isinstance(name, str) else None
        if tensor is None:
            raise CdlError(f"{path} is not a state dict of tensors: {str(name)[:80]} is none")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise CdlError(
                f"{path} has weights that are not finite, in {name}: its training diverged, take "
                "an earlier checkpoint"
            )


def _plain_tensor(values: object) -> torch.Tensor | None:
    """A tensor that is what its numbers in memory are: no sparse one, for example, and none of one
    number that stands for 2^50, as files can have them; else None."""
    if not isinstance(values, torch.Tensor | np.ndarray):
        return None
    try:
        tensor = torch.as_tensor(values)
        if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized:
            return None
        return tensor if not tensor.is_meta and _fills_its_memory(tensor) else None
    except (RuntimeError, TypeError, ValueError):  # an array of a type that PyTorch has not
        return None


def _fills_its_memory(tensor: torch.Tensor) -> bool:
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def load_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """The state dict in a file, or in a dict there: under `state_dict` (CompressAI's training
    example), `network` (a codec's checkpoint of ours) or `model` (Detectron2).

    Raises:
        FileNotFoundError, CdlError: as read_weights; if there is no state dict of plain tensors.
    """
    return state_dict_in(read_weights(path), path)


def state_dict_in(content: dict[str, Any], path: str | Path) -> dict[str, torch.Tensor]:
    """As load_state_dict, of what a file holds."""
    nested = [content[k] for k in ("state_dict", "network", "model") if k in content]
    state = nested[0] if nested else content
    check_state_dict(state, path)
    return state


def without_wrapper(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state with the names of the network itself, if DataParallel saved it."""
    wrapped = all(name.startswith(WRAPPER) for name in state)
    return {name.removeprefix(WRAPPER): v for name, v in state.items()} if wrapped else state


def load_network(
    network: nn.Module,
    path: str | Path,
    other_head: bool = False,
    rename: Callable[[str], str] = str,
) -> None:
    """Load a network's weights, entries by name; DataParallel's `module.` before them is left out.

    Args:
        network: to load them into.
        path: of a file, see load_state_dict.
        other_head: leave out a last layer of another number of classes.
        rename: gives the network's name of an entry from the file's.

    Raises:
        FileNotFoundError: if there is no such file.
        CdlError: if an entry is missing, or of another shape.
    """
    state = {rename(k): v for k, v in without_wrapper(load_state_dict(path)).items()}
    own = network.state_dict()
    wrong = [k for k, v in own.items() if k not in state or state[k].shape != v.shape]
    last = list(own)[-1].rpartition(".")[0] + "."  # of every classifier of both: its head
    head = [key for key in wrong if other_head and key.startswith(last)]
    if wrong != head:
        there = "is not there" if wrong[0] not in state else f"is {tuple(state[wrong[0]].shape)}"
        raise CdlError(
            f"{path} does not fit this {type(network).__name__}: {wrong[0]} {there}, and is "
            f"{tuple(own[wrong[0]].shape)} here"
        )
    network.load_state_dict({k: state[k] for k in own if k not in head}, strict=False)


def save_weights(path: Path, network: nn.Module, details: dict[str, str]) -> None:
    """Write a network's weights, without derived tables, and `details` as safetensors metadata."""
    save_tensors(path, {k: v.cpu() for k, v in weights_of(network).items()}, details)


def save_tensors(
    path: str | Path, tensors: dict[str, torch.Tensor], details: dict[str, str]
) -> None:
    """Write a safetensors file, whole or not at all; `details` are its metadata."""
    from safetensors.torch import save

    content = save({k: v.contiguous() for k, v in tensors.items()}, metadata=details)
    with write_atomically(path) as temporary:
        temporary.write_bytes(content)


def save_checkpoint(path: str | Path, content: dict[str, Any]) -> None:
    """Write what torch.save does of a dict, whole or not at all, with a checksum of each record."""
    held = io.BytesIO()  # on a full disk, torch.save itself ends the process
    torch.save(content, held)
    with write_atomically(path) as temporary:
        temporary.write_bytes(held.getbuffer())


def fingerprint(network: nn.Module) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of all weights, names and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights_of(network).items()):
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype};".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def weights_of(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state of a network without its entropy-coding tables."""
    parameters = {name for name, _ in network.named_parameters()}
    state = network.state_dict()
    return {k: v for k, v in state.items() if k in parameters or not is_table(k)}


def is_table(name: str) -> bool:
    """Return whether an entry of a state has the name of an entropy-coding table."""
    return name.rpartition(".")[2] in TABLES


def _first_line(error: Exception) -> str:
    """An error's first line, or its class where it says nothing."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if line.startswith("Weights only load failed"):  # and it goes on to advise what is not safe
        return "it is damaged, or holds more than tensors and plain values"
    return line
