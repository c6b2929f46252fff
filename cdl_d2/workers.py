"""Worker processes and parts of jobs: usable cores, loading in workers, job arrays."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from cdl_d2.errors import CdlError


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_job_part(text: str | None, environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Return (i, n) of `i/n`, the part of a job that this process does.

    The default is set by the environment of torchrun or of a SLURM array, else (0, 1).

    Raises:
        CdlError: unless 0 <= i < n.
    """
    try:
        index, count = map(int, text.split("/")) if text else _part_in(environment)
    except ValueError as error:
        source = repr(text) if text else "RANK or SLURM_ARRAY_TASK_ID of the environment"
        raise CdlError(f"part of a job {source}: expected i/n") from error
    if not 0 <= index < count:
        raise CdlError(f"part {index}/{count} of a job: expected 0/{count} to {count - 1}/{count}")
    return index, count


def _part_in(environment: Mapping[str, str]) -> tuple[int, int]:
    if {"RANK", "WORLD_SIZE"} <= environment.keys():
        return int(environment["RANK"]), int(environment["WORLD_SIZE"])
    if {"SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"} <= environment.keys():
        first = int(environment.get("SLURM_ARRAY_TASK_MIN", 0))
        step = int(environment.get("SLURM_ARRAY_TASK_STEP", 1))  # --array=3-9:2 is 3, 5, 7, 9
        index = (int(environment["SLURM_ARRAY_TASK_ID"]) - first) // step
        return index, int(environment["SLURM_ARRAY_TASK_COUNT"])
    return 0, 1


class PlainlyPickled:
    """Mixin for datasets with tensors: sends them to workers as bytes.

    Under `spawn` and `forkserver`, torch would send each tensor as a file descriptor; a fork server
    accepts at most 256, and networks have more tensors.
    """

    def __getstate__(self) -> dict[str, bytes]:
        return {"state": pickle.dumps(self.__dict__)}

    def __setstate__(self, packed: dict[str, bytes]) -> None:
        self.__dict__.update(pickle.loads(packed["state"]))


def load_in_workers(
    dataset: Dataset, keys: Iterable[Any], workers: int, method: str | None = None
) -> Iterator[Any]:
    """Return an iterator over `dataset[key]` for each key, in order.

    Keys are consumed lazily, at most two per worker ahead of the results.

    Args:
        dataset: picklable, unless the start method is `fork`.
        keys: keys of the samples to load.
        workers: number of processes, of one thread each; 0 to load in this process.
        method: start method of the processes; default Python's.
    """
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=keys,
        num_workers=workers,
        multiprocessing_context=method if workers else None,
        worker_init_fn=end_with_parent,
        generator=torch.Generator(),  # a loader draws a seed: leave the caller's generator alone
    )
    with _without_interruption():
        return iter(loader)


def end_with_parent(_worker: int = 0) -> None:
    """End this worker within seconds after its parent, even if the parent is killed.

    To be used as `worker_init_fn` of a DataLoader, whose workers would otherwise wait for ever to
    send a result larger than a pipe. Ctrl-C, which reaches all processes, is left to the parent.
    """
    if multiprocessing.parent_process() is None:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch_parent, daemon=True).start()


def _watch_parent() -> None:
    # Both checks are needed: other processes may keep the sentinel open, and the parent may have
    # ended before its process id is read.
    parent, number = multiprocessing.parent_process(), os.getppid()
    while parent.is_alive() and os.getppid() == number:
        parent.join(timeout=1)
    os._exit(1)


@contextmanager
def _without_interruption() -> Iterator[None]:
    """Start processes in a block that ignore Ctrl-C from the beginning."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
