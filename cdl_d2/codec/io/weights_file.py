"""Weights on disk: read without unpickling objects, written as safetensors."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cdl_d2.codec.io.packed_weights import read_safetensors
from cdl_d2.codec.io.state_dicts import (
    SAVE_AGAIN,
    State,
    load_into,
    state_dict_in,
    weights_of,
)
from cdl_d2.codec.io.unread_objects import load_without_objects, unread_class
from cdl_d2.errors import CdlError
from cdl_d2.files import write_atomically

ZIP = b"PK\x03\x04"  # how files of torch.save begin, since PyTorch 1.6


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
    """Read the tensors and plain values in a `.safetensors` or PyTorch file; other objects are not
    unpickled but replaced by empty ones, see load_without_objects.

    Tensors that packed_weights stored as int8 come back as float32.

    Raises:
        FileNotFoundError, CdlError: as reading_weights; if the file holds no dict, or is damaged.
    """
    with reading_weights(path):
        if Path(path).suffix == ".safetensors":
            return read_safetensors(path)
        _check_records(path)
        content = load_without_objects(path)
    if kind := unread_class(content):
        raise CdlError(f"{path} cannot be read as weights: it is a pickled {kind}: {SAVE_AGAIN}")
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


def load_state_dict(path: str | Path) -> State:
    """Read the state dict in a file, see state_dict_in.

    Raises:
        FileNotFoundError, CdlError: as read_weights; if there is no state dict of plain tensors.
    """
    return state_dict_in(read_weights(path), path)


def load_network(
    network: nn.Module,
    path: str | Path,
    other_head: bool = False,
    rename: Callable[[str], str] = str,
) -> None:
    """Load a network's weights, entries by name, see load_into; what the network does not have is
    left out with a warning.

    Args:
        network: to load them into.
        path: of a file, see load_state_dict.
        other_head: leave out a last layer of another number of classes.
        rename: gives the network's name of an entry from the file's.

    Raises:
        FileNotFoundError: if there is no such file.
        CdlError: if an entry is missing, or of another shape.
    """
    state = load_state_dict(path)
    load_into(network, state, path, other_head=other_head, rename=rename, refused=())


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


def _first_line(error: Exception) -> str:
    """An error's first line, or its class where it says nothing."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if line.startswith("Weights only load failed"):  # and it goes on to advise what is not safe
        return "it is damaged, or holds more than tensors and plain values"
    return line
