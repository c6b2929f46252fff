"""Arrays in pickle files, such as the weights of Detectron2's model zoo: nothing else is made.

What a pickle calls numpy's functions with is not trusted: a dtype of objects, or a dtype whose
state says something else than its name, would let the bytes of a file be taken for pointers. So
dtypes, arrays and scalars are made here, of names of numbers and of bytes.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any

import numpy as np

NUMBERS = re.compile(r"b1|[iu][1248]|f[248]|c(8|16)")  # names of dtypes, as numpy pickles them
NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")  # before version 2, and since


def read_pickled_arrays(path: str | Path) -> Any:
    """What a pickle of plain values and numpy arrays of numbers holds.

    Raises:
        pickle.UnpicklingError: if it asks for anything else; other errors if it is damaged.
    """
    content = Path(path).read_bytes()
    _check_memory(content)
    return _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()


def _check_memory(content: bytes) -> None:
    """Raise UnpicklingError for numbers that a pickle is believed in: places in the list of what
    it has made, which is made that long, and sizes of texts."""
    for opcode, argument, _ in pickletools.genops(content):  # compares sizes with what is there
        if opcode.name in ("PUT", "LONG_BINPUT") and argument > len(content):
            raise pickle.UnpicklingError(f"it counts {argument} objects in {len(content)} bytes")


class _DType:
    """Stands for a dtype while a pickle is read."""

    def __init__(self, name: object):
        if not isinstance(name, str) or not NUMBERS.fullmatch(name):
            raise pickle.UnpicklingError(f"it asks for arrays of {name!r}, which are no numbers")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        _, order, *rest = state
        if order not in ("<", ">", "|") or rest != [None, None, None, -1, -1, 0]:
            raise pickle.UnpicklingError(f"it asks for arrays of {state}, which are no numbers")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray):
    """An array that takes its state from a pickle."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, by_columns, content = state
        if min(shape, default=0) < 0:
            raise pickle.UnpicklingError(f"it has an array of shape {shape}")
        super().__setstate__((1, shape, _known(dtype), bool(by_columns), content))


def _make_dtype(name: object, *_: object) -> _DType:
    return _DType(name)


def _make_array(*_: object) -> _Array:
    return _Array(0)


def _make_scalar(dtype: object, content: bytes | str) -> np.generic:
    content = content.encode("latin1") if isinstance(content, str) else content
    return np.frombuffer(content, _known(dtype), count=1)[0]


def _known(dtype: object) -> np.dtype:
    if not isinstance(dtype, _DType):
        raise pickle.UnpicklingError(f"it has an array of {dtype!r}, which is no type of numbers")
    return dtype.dtype


class _ArrayUnpickler(pickle.Unpickler):
    MADE_HERE = {
        ("numpy", "dtype"): _make_dtype,
        ("numpy", "ndarray"): "numpy.ndarray",  # an argument only, not to be called
        **{(module, "_reconstruct"): _make_array for module in NUMPY},
        **{(module, "scalar"): _make_scalar for module in NUMPY},
    }
    ALLOWED = {("collections", "OrderedDict"), ("_codecs", "encode")}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.MADE_HERE:
            return self.MADE_HERE[module, name]
        if (module, name) in self.ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not an array")
