"""Processes that run cases, so that a crash, a hang or a lack of memory ends only a process.

A process is a fork of this one, which has imported everything and read the valid files. It runs
case after case and is replaced only after a bad outcome.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from cdl_d2.codec.latent import MAX_PIXELS_VARIABLE
from tests.fuzz.case import BAD, CRASH, HANG, PIXELS, UNCAUGHT, Kind, Result, run_case

MAX_ADDED_BYTES = 4 * 2**30  # of address space
CONTEXT = multiprocessing.get_context("fork")


def run_cases(
    kind: Kind, seed: int, cases: Iterable[int], workers: int = 1, limit: float = 60.0
) -> Iterator[Result]:
    """Yield the results of cases as they arrive.

    Args:
        workers: number of processes.
        limit: seconds after which a case counts as a hang.
    """
    with tempfile.TemporaryDirectory() as name:
        originals = read_originals(kind, Path(name))
        waiting, crew = iter(cases), []
        try:
            crew = [_Worker(kind, seed, originals, Path(name) / str(i)) for i in range(workers)]
            for worker in crew:
                worker.ask(next(waiting, None), limit)
            while busy := [worker for worker in crew if worker.case is not None]:
                patience = min(worker.deadline for worker in busy) - time.monotonic()
                wait([worker.connection for worker in busy], max(patience, 0))
                for worker in busy:
                    result = worker.result()
                    if result is not None:
                        yield result
                        worker.ask(next(waiting, None), limit)
        finally:
            for worker in crew:
                worker.end()


def read_originals(kind: Kind, folder: Path) -> dict[str, Any]:
    """Return the values of the valid files."""
    originals = {}
    for name, content in kind.files.items():
        originals[name] = kind.read(name, content, new_folder(folder))
    return originals


def new_folder(folder: Path) -> Path:
    """Create an empty folder in a folder."""
    path = folder / "case"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


class _Worker:
    """Process with its current case."""

    def __init__(self, *arguments: Any):
        self._arguments = arguments
        self.case: int | None = None
        self._start()

    def _start(self) -> None:
        _trace_of(self._arguments[-1]).touch()
        self.connection, worker_end = CONTEXT.Pipe()
        arguments = worker_end, *self._arguments
        self._process = CONTEXT.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        worker_end.close()

    def ask(self, case: int | None, limit: float) -> None:
        self.case, self.deadline = case, time.monotonic() + limit
        if case is not None:
            self.connection.send(case)

    def result(self) -> Result | None:
        """Return the result of the case, None while it runs."""
        if self.connection.poll():
            try:
                result = self.connection.recv()
            except (EOFError, ConnectionResetError):
                self._process.join()
                code = self._process.exitcode
                how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
                result = Result(self.case, CRASH, f"{how} at {self._find_frames()}")
        elif time.monotonic() >= self.deadline:
            os.kill(self._process.pid, signal.SIGUSR1)
            time.sleep(1)
            result = Result(self.case, HANG, f"no end at {self._find_frames()}")
        else:
            return None
        if result.outcome in BAD and result.outcome != UNCAUGHT:  # its state is not trusted
            self.end()
            self._start()
        return result

    def _find_frames(self) -> str:
        """Return the innermost frames of the process from its trace."""
        lines = _trace_of(self._arguments[-1]).read_text(encoding="utf-8").splitlines()
        frames = [line.split('"') for line in lines if line.startswith("  File")]
        lines = [f"{Path(name).name}:{tail.split()[2]}" for _, name, tail in frames[:3]]
        return ", ".join(line.rstrip(",") for line in lines)

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()


def _trace_of(folder: Path) -> Path:
    return folder.with_suffix(".trace")


def _serve(
    connection: Connection, kind: Kind, seed: int, originals: dict[str, Any], folder: Path
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silence, stream)
    trace = open(_trace_of(folder), "w", encoding="utf-8")  # noqa: SIM115
    faulthandler.enable(trace)
    faulthandler.register(signal.SIGUSR1, trace)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    most = pages * resource.getpagesize() + MAX_ADDED_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    os.environ[MAX_PIXELS_VARIABLE] = str(PIXELS)
    parent = os.getppid()
    while os.getppid() == parent:  # until the parent is killed
        if connection.poll(5):
            case = connection.recv()
            connection.send(run_case(kind, seed, case, new_folder(folder), originals))
