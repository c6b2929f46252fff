"""Processes beside this one: how many cores there are for them, and that none is left behind."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # macOS has none
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class PlainlyPickled:
    """Mixin for datasets with tensors, which are sent to workers as bytes.

    Under `spawn` and `forkserver`, torch would send each tensor by a file descriptor, and a fork
    server takes at most 256 of them: fewer than a network has tensors.
    """

    def __getstate__(self) -> dict[str, bytes]:
        return {"state": pickle.dumps(self.__dict__)}

    def __setstate__(self, packed: dict[str, bytes]) -> None:
        self.__dict__.update(pickle.loads(packed["state"]))


def load_in_workers(
    dataset: Dataset, keys: Iterable[Any], workers: int, method: str | None = None
) -> Iterator[Any]:
    """Return an iterator over `dataset[key]` for each key, in order.

    Keys are drawn as they are needed: at most two a worker are ahead of the results.

    Args:
        dataset: picklable, unless the start method is `fork`.
        workers: processes of one thread each; with 0, this process does the work.
        method: start method of the processes; default Python's.
    """
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=keys,
        num_workers=workers,
        multiprocessing_context=method if workers else None,
        worker_init_fn=end_with_parent,
        generator=torch.Generator(),  # a loader draws a seed; not from the caller's numbers
    )
    with _without_interruption():
        return iter(loader)


def end_with_parent(_worker: int = 0) -> None:
    """Make this worker end within seconds after its parent, even if that one is killed.

    A `worker_init_fn` of a DataLoader. By itself a loader's worker waits for ever to hand over a
    result that is larger than a pipe. Ctrl-C reaches all processes of a terminal; it is left to the
    parent.
    """
    if multiprocessing.parent_process() is None:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch_parent, daemon=True).start()


def _watch_parent() -> None:
    # Either sign may fail alone: other processes may hold the parent's end of the sentinel, and a
    # parent that is gone already has another number.
    parent, number = multiprocessing.parent_process(), os.getppid()
    while parent.is_alive() and os.getppid() == number:
        parent.join(timeout=1)
    os._exit(1)


@contextmanager
def _without_interruption() -> Iterator[None]:
    """Start processes that ignore Ctrl-C from the first moment on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
