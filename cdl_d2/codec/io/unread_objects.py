"""PyTorch checkpoints with objects beside the weights (arguments, paths, configs), read safely.

With `weights_only`, PyTorch rejects a file at the first class or function that it does not allow.
Here every such name is allowed, as an empty placeholder class: the tensors can be read, and no code
of the file, or of a package that it names, runs.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import threading
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

CLASS_ATTRIBUTE = "unread_class"  # of a dict that replaces an object
LEGACY_PICKLES = 4  # at the beginning of a file from before PyTorch 1.6; the last is the content
LOCK = threading.Lock()  # PyTorch's list of allowed names is shared by all threads


class Unread:
    """Placeholder of an object that was not constructed."""

    def __new__(cls, *arguments: object) -> Any:
        """Return an object that accepts any state, or without arguments a dict to be filled."""
        if arguments and cls.__name__ != "defaultdict":
            return super().__new__(cls)
        placeholder = OrderedDict()
        placeholder.__dict__[CLASS_ATTRIBUTE] = f"{cls.__module__}.{cls.__name__}"
        return placeholder

    def __setstate__(self, state: object) -> None:
        """Ignore the state."""


def unread_class(value: object) -> str:
    """Return the class name of the object that a placeholder replaces, "" for any other value."""
    if isinstance(value, Unread):
        return f"{type(value).__module__}.{type(value).__name__}"
    attributes = getattr(value, "__dict__", {}) if isinstance(value, dict) else {}
    return attributes.get(CLASS_ATTRIBUTE, "")


def load_without_objects(path: str | Path) -> Any:
    """Load tensors (to the CPU) and plain values of a PyTorch file; replace objects by Unread.

    Raises:
        Exception: whatever PyTorch raises for a corrupted file.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        if not hasattr(torch.serialization, "clear_safe_globals"):  # before PyTorch 2.4
            raise
    classes = [type(n, (Unread,), {"__module__": module}) for module, n in _global_names(path)]
    with LOCK, _only_safe_globals(classes):
        return torch.load(path, map_location="cpu", weights_only=True)


@contextmanager
def _only_safe_globals(classes: list[type]) -> Iterator[None]:
    """Allow these classes only, instead of those that other packages have registered."""
    serialization = torch.serialization
    registered = serialization.get_safe_globals()
    serialization.clear_safe_globals()
    serialization.add_safe_globals(classes)
    try:
        yield
    finally:
        serialization.clear_safe_globals()
        serialization.add_safe_globals(registered)


def _global_names(path: str | Path) -> set[tuple[str, str]]:
    """Return module and name of all classes and functions that a file refers to."""
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            return set().union(*(_names_in_pickle(file) for _ in range(LEGACY_PICKLES)))
    with zipfile.ZipFile(path) as archive:
        records = [name for name in archive.namelist() if name.endswith("data.pkl")]
        return set().union(*(_names_in_pickle(io.BytesIO(archive.read(n))) for n in records))


def _names_in_pickle(file: IO[bytes]) -> set[tuple[str, str]]:
    """Return the names up to the end of one pickle, converted from Python 2's to Python 3's."""
    names = set()
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL":
            module, _, name = argument.partition(" ")
            current = IMPORT_MAPPING.get(module, module), name
            names.add(NAME_MAPPING.get((module, name), current))
    return names
