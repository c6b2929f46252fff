"""What training scripts save beside weights (arguments, numbers of numpy, paths, configs), of which
nothing is made: each object is replaced by an empty one.

With `weights_only`, PyTorch stops at the first class or function that it does not know. Here such
names stand for classes that have no code but this, so that the tensors beside them can be read, and
nothing of the file, nor of any package that it names, is run.
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

UNREAD = "unread_class"  # attribute of what stands for an object
PICKLES = 4  # at the beginning of a file of before PyTorch 1.6; the last is the content
LOCK = threading.Lock()  # PyTorch's list of names is one for all threads


class Unread:
    """An object in a file that was not made."""

    def __new__(cls, *arguments: object) -> Any:
        """Return what takes any state; without arguments a dict, since that may be filled."""
        if arguments and cls.__name__ != "defaultdict":
            return super().__new__(cls)
        unread = OrderedDict()
        unread.__dict__[UNREAD] = name_of(cls)
        return unread

    def __setstate__(self, state: object) -> None:
        """Leave out the state."""


def name_of(cls: type) -> str:
    """Return the name of a class with its module."""
    return f"{cls.__module__}.{cls.__name__}"


def unread_class(value: object) -> str:
    """Return the class of the object that this stands for; empty for anything that was read."""
    if isinstance(value, Unread):
        return name_of(type(value))
    return getattr(value, "__dict__", {}).get(UNREAD, "") if isinstance(value, dict) else ""


def load_without_objects(path: str | Path) -> Any:
    """Return the content of a PyTorch file, tensors on the CPU and plain values; other objects are
    replaced by Unread.

    Raises:
        Exception: what PyTorch raises for a damaged file.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        if not hasattr(torch.serialization, "clear_safe_globals"):  # before PyTorch 2.4
            raise
    with LOCK, _allowing_only([_class_named(*name) for name in _names_in(path)]):
        return torch.load(path, map_location="cpu", weights_only=True)


@contextmanager
def _allowing_only(classes: list[type]) -> Iterator[None]:
    """Replace what others have PyTorch make, such as dicts that it does not fill."""
    serialization = torch.serialization
    before = serialization.get_safe_globals()
    serialization.clear_safe_globals()
    serialization.add_safe_globals(classes)
    try:
        yield
    finally:
        serialization.clear_safe_globals()
        serialization.add_safe_globals(before)


def _class_named(module: str, name: str) -> type:
    return type(name, (Unread,), {"__module__": module})


def _names_in(path: str | Path) -> set[tuple[str, str]]:
    """Return module and name of all classes and functions that a file refers to."""
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            return set().union(*(_names_in_pickle(file) for _ in range(PICKLES)))
    with zipfile.ZipFile(path) as archive:
        records = [name for name in archive.namelist() if name.endswith("data.pkl")]
        return set().union(*(_names_in_pickle(io.BytesIO(archive.read(n))) for n in records))


def _names_in_pickle(file: IO[bytes]) -> set[tuple[str, str]]:
    """Return the names up to the end of one pickle, as Python 3 has them."""
    names = set()
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL":
            module, _, name = argument.partition(" ")
            module = IMPORT_MAPPING.get(module, module)
            names.add(NAME_MAPPING.get((argument.split(" ")[0], name), (module, name)))
    return names
