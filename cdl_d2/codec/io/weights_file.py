"""Files of weights: read without unpickling objects, written as safetensors."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from cdl_d2.codec.io.packed_weights import read_safetensors
from cdl_d2.codec.io.state_dicts import (
    SAVE_AGAIN,
    State,
    extract_state_dict,
    get_weights,
    load_into,
)
from cdl_d2.codec.io.unread_objects import load_without_objects, unread_class
from cdl_d2.errors import CdlError
from cdl_d2.files import write_atomically

T = TypeVar("T")

ZIP_MAGIC = b"PK\x03\x04"  # of files of torch.save, since PyTorch 1.6


def check_weights_file(path: str | Path) -> None:
    """Raise FileNotFoundError unless `path` is a file."""
    if not Path(path).is_file():
        problem = "are a folder, not a file" if Path(path).is_dir() else "do not exist"
        raise FileNotFoundError(f"weights {path} {problem}: check the path")


def read_file(path: str | Path, read: Callable[[str | Path], T]) -> T:
    """Return the content of a file of weights by `read`, whose errors are converted.

    Raises:
        FileNotFoundError: if the file does not exist.
        CdlError: if it is corrupted or no file of weights.
    """
    check_weights_file(path)
    try:
        return read(path)
    except (CdlError, OSError):
        raise
    except Exception as error:  # unpickling corrupted files raises nearly every type
        raise CdlError(f"{path} cannot be read as weights: {_first_line(error)}") from error


def read_weights(path: str | Path) -> dict[str, Any]:
    """Read the tensors and plain values of a `.safetensors` or PyTorch file.

    Other objects are not unpickled but replaced by placeholders. Tensors that `pack` stored as int8
    are returned as float32.

    Raises:
        FileNotFoundError: if the file does not exist.
        CdlError: if it is corrupted, or has no dict.
    """
    if Path(path).suffix == ".safetensors":
        return read_file(path, read_safetensors)
    content = read_file(path, _read_pickle)
    if kind := unread_class(content):
        raise CdlError(f"{path} cannot be read as weights: it is a pickled {kind}: {SAVE_AGAIN}")
    if not isinstance(content, dict):
        raise CdlError(f"{path} contains a {type(content).__name__}, not weights")
    return content


def _read_pickle(path: str | Path) -> Any:
    _check_records(path)
    return load_without_objects(path)


def _check_records(path: str | Path) -> None:
    """Verify the checksums that torch.save writes and torch.load ignores.

    Files from before PyTorch 1.6 have none.
    """
    with open(path, "rb") as file:
        if file.read(len(ZIP_MAGIC)) != ZIP_MAGIC:
            return
    try:
        with zipfile.ZipFile(path) as archive:
            corrupted = archive.testzip()
    except OSError as error:  # an offset before the beginning of the file
        raise CdlError(f"{path} cannot be read as weights: it is corrupted ({error})") from error
    if corrupted is not None:
        raise CdlError(
            f"{path} is corrupted: the checksum of {corrupted} does not match: copy the file "
            "again, or use an earlier one"
        )


def load_state_dict(path: str | Path) -> State:
    """Read the state dict of a file.

    Raises:
        FileNotFoundError: if the file does not exist.
        CdlError: if it is corrupted, or has no state dict of plain, finite tensors.
    """
    return extract_state_dict(read_weights(path), path)


def load_network(
    network: nn.Module,
    path: str | Path,
    skip_head: bool = False,
    rename: Callable[[str], str] = str,
) -> None:
    """Load a network's weights by name; ignore entries that it lacks, with a warning.

    Args:
        network: network to load into.
        path: path of the file.
        skip_head: ignore the last layer if it has another number of classes.
        rename: function from a name in the file to the network's name.

    Raises:
        FileNotFoundError: if the file does not exist.
        CdlError: if it cannot be read, or an entry is missing or of another shape.
    """
    state = load_state_dict(path)
    load_into(network, state, path, skip_head=skip_head, rename=rename, strict_modules=())


def save_weights(path: Path, network: nn.Module, details: dict[str, str]) -> None:
    """Write a network's weights, without coding tables, and `details` as safetensors metadata."""
    save_tensors(path, {k: v.cpu() for k, v in get_weights(network).items()}, details)


def save_tensors(
    path: str | Path, tensors: dict[str, torch.Tensor], details: dict[str, str]
) -> None:
    """Write a safetensors file atomically, with `details` as its metadata."""
    from safetensors.torch import save

    content = save({k: v.contiguous() for k, v in tensors.items()}, metadata=details)
    with write_atomically(path) as temporary:
        temporary.write_bytes(content)


def save_checkpoint(path: str | Path, content: dict[str, Any]) -> None:
    """Write a dict with torch.save, atomically."""
    buffer = io.BytesIO()  # on a full disk, torch.save itself ends the process
    torch.save(content, buffer)
    with write_atomically(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def _first_line(error: Exception) -> str:
    """Return the first line of an error, or its class if it has no text."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if line.startswith("Weights only load failed"):  # followed by advice that is not safe
        return "it is corrupted, or contains more than tensors and plain values"
    return line
