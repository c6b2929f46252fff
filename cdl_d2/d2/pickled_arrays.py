"""Reading of arrays in pickle files, such as the weights of Detectron2's model zoo, and no more.

The arguments for numpy's functions in a pickle are untrusted: a dtype of objects, or one whose
state contradicts its name, would turn bytes of the file into pointers. So dtypes, arrays and
scalars are built here, from names of number types and from bytes.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any

import numpy as np

NUMBERS = re.compile(r"b1|[iu][1248]|f[248]|c(8|16)")  # names of number types in pickles
NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")  # before version 2, and since


def read_pickled_arrays(path: str | Path) -> Any:
    """Return the content of a pickle of plain values and numpy arrays of numbers.

    Raises:
        pickle.UnpicklingError: for any other content; other exceptions if it is corrupted.
    """
    content = Path(path).read_bytes()
    _check_memory(content)
    return _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()


def _check_memory(content: bytes) -> None:
    """Raise UnpicklingError for memo indices beyond the file's size, which take up memory."""
    for opcode, argument, _ in pickletools.genops(content):  # checks sizes of texts itself
        if opcode.name in ("PUT", "LONG_BINPUT") and argument > len(content):
            raise pickle.UnpicklingError(f"it counts {argument} objects in {len(content)} bytes")


class _DType:
    """A dtype during unpickling."""

    def __init__(self, name: object):
        if not isinstance(name, str) or not NUMBERS.fullmatch(name):
            raise pickle.UnpicklingError(f"it asks for arrays of {name!r}, which are no numbers")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        _, order, *details = state
        if order not in ("<", ">", "|") or details != [None, None, None, -1, -1, 0]:
            raise pickle.UnpicklingError(f"it asks for arrays of {state}, which are no numbers")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray):
    """An array during unpickling."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, by_columns, content = state
        if min(shape, default=0) < 0:
            raise pickle.UnpicklingError(f"it has an array of shape {shape}")
        super().__setstate__((1, shape, _check_dtype(dtype), bool(by_columns), content))


def _make_dtype(name: object, *_: object) -> _DType:
    return _DType(name)


def _make_array(*_: object) -> _Array:
    return _Array(0)


def _make_scalar(dtype: object, content: bytes | str) -> np.generic:
    content = content.encode("latin1") if isinstance(content, str) else content
    return np.frombuffer(content, _check_dtype(dtype), count=1)[0]


def _check_dtype(dtype: object) -> np.dtype:
    if not isinstance(dtype, _DType):
        raise pickle.UnpicklingError(f"it has an array of {dtype!r}, which is no type of numbers")
    return dtype.dtype


class _ArrayUnpickler(pickle.Unpickler):
    BUILDERS = {
        ("numpy", "dtype"): _make_dtype,
        ("numpy", "ndarray"): "numpy.ndarray",  # an argument only, not to be called
        **{(module, "_reconstruct"): _make_array for module in NUMPY},
        **{(module, "scalar"): _make_scalar for module in NUMPY},
    }
    ALLOWED = {("collections", "OrderedDict"), ("_codecs", "encode")}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.BUILDERS:
            return self.BUILDERS[module, name]
        if (module, name) in self.ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not an array")
