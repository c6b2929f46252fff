"""Kinds of files, cases (one corrupted file each) and their outcomes."""

from __future__ import annotations

import os
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch

from cdl_d2.cli.main import MISTAKES

PIXELS = 2**20  # CDL_MAX_PIXELS of all cases, to limit the memory of valid files
MEMORY = 512 * 2**20  # bytes that a case may take beyond what its process had

# Good outcomes ...
REFUSED, EQUAL, DIFFERENT = "refused", "equal", "different"
# ... and bad ones: `silent` is a difference despite a checksum.
SILENT, UNCAUGHT, CRASH, HANG, TOO_MUCH = "silent", "uncaught", "crash", "hang", "memory"
GOOD, BAD = (REFUSED, EQUAL, DIFFERENT), (SILENT, UNCAUGHT, CRASH, HANG, TOO_MUCH)


@dataclass(frozen=True)
class Kind:
    """Kind of file, with functions to write, corrupt and read it.

    Attributes:
        name: one word.
        make: function that returns valid files by name, always the same bytes.
        damage: function that returns corrupted content.
        read: function from name, content and an empty folder to the file's values; it raises one
            of MISTAKES for an invalid file.
        checksum: whether a corrupted file must never be read as other values.
    """

    name: str
    make: Callable[[], dict[str, bytes]]
    damage: Callable[[Random, bytes], bytes]
    read: Callable[[str, bytes, Path], Any]
    checksum: bool = False

    @cached_property
    def files(self) -> dict[str, bytes]:
        """Valid files by name."""
        return self.make()

    def content_of(self, seed: int, case: int) -> tuple[str, bytes]:
        """Return name and corrupted content of a case."""
        rng = Random(f"{seed} {self.name} {case}")
        name = rng.choice(sorted(self.files))
        return name, self.damage(rng, self.files[name])


class Result(NamedTuple):
    """Outcome of a case, with its CPU time in seconds and its memory in bytes."""

    case: int
    outcome: str
    detail: str = ""
    seconds: float = 0.0
    memory: int = 0


def run_case(kind: Kind, seed: int, case: int, folder: Path, originals: dict[str, Any]) -> Result:
    """Read the file of a case.

    Args:
        folder: empty folder.
        originals: values of the valid files.
    """
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    before, start = _reset_peak(), time.process_time()
    outcome, detail = DIFFERENT, ""
    try:
        name, content = kind.content_of(seed, case)
        if same(kind.read(name, content, folder), originals[name]):
            outcome = EQUAL
        elif kind.checksum:
            outcome, detail = SILENT, f"{name} was read as other values"
    except MISTAKES as error:
        outcome = REFUSED
        if _is_out_of_memory(error):
            outcome, detail = TOO_MUCH, f"out of memory: {str(error)[:200]}"
    except BaseException as error:  # also of panics of Rust, which are no Exception
        outcome, detail = UNCAUGHT, _where(error)
    memory = max(_memory("VmHWM") - before, 0)
    if memory > MEMORY:
        outcome, detail = TOO_MUCH, detail or f"{memory >> 20} MiB, {outcome}"
    return Result(case, outcome, detail, time.process_time() - start, memory)


def same(a: Any, b: Any) -> bool:
    """Return whether two trees of values, tensors and arrays are equal; NaN equals NaN."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        a, b = a.detach(), b.detach()
        return a.dtype == b.dtype and a.shape == b.shape and a.equal(b)
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if is_dataclass(a):
        compared = [field.name for field in fields(a) if field.compare]
        return all(same(getattr(a, name), getattr(b, name)) for name in compared)
    return a == b or (a != a and b != b)


def _is_out_of_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError) or "allocate" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _where(error: BaseException) -> str:
    """Describe an error, the last line of this project in its traceback, and the last of all."""
    frames = traceback.extract_tb(error.__traceback__)
    own_frames = [frame for frame in frames if f"{os.sep}cdl_d2{os.sep}" in frame.filename]
    lines = {f"{Path(f.filename).name}:{f.lineno}": None for f in (*own_frames[-1:], *frames[-1:])}
    return f"{type(error).__name__} at {', '.join(lines)}: {' '.join(str(error).split())[:200]}"


def _reset_peak() -> int:
    """Reset the peak of this process' memory, and return its memory in bytes."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return _memory("VmRSS")


def _memory(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))
