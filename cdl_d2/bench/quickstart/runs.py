"""Runs of the quick start's training commands, with progress bars."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cdl_d2.bench.quickstart.commands import UNTRAINED, Command, Task
from cdl_d2.errors import CdlError
from cdl_d2.files import read_json_lines
from cdl_d2.workers import usable_cores

POLL_SECONDS = 0.5


def run_all(command: Command, task: Task) -> None:
    """Train the teacher, then the models initialized from it; finished runs are kept.

    Raises:
        CdlError: if a command fails, with the last line of its log.
    """
    run_together(command, task, ["teacher"])
    run_together(command, task, ["bridge", "finetuned"])
    run_together(command, task, UNTRAINED)


def run_together(command: Command, task: Task, runs: Sequence[str]) -> None:
    """Run commands at the same time, sharing the cores, with a progress bar each."""
    runs = [run for run in runs if not is_done(task, run)]
    if not runs:
        return
    threads = max(1, usable_cores() // len(runs))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    processes = {}
    try:
        for run in runs:
            (task.folder / run).mkdir(parents=True, exist_ok=True)
            with (task.folder / run / "command.log").open("w", encoding="utf-8") as log:
                words = command(task, run)
                print(*words, file=log, flush=True)
                processes[run] = subprocess.Popen(
                    words, stdout=log, stderr=subprocess.STDOUT, env=environment
                )
        _watch(task, processes)
    finally:
        for process in processes.values():
            process.terminate()
            process.wait()


def is_done(task: Task, run: str) -> bool:
    """Return True if a run has been evaluated."""
    return (task.folder / run / "results.json").exists()


def read_results(task: Task, run: str) -> dict[str, dict[str, float]]:
    """Return the metrics of a run by task: `bbox`, `segm` and, of coded images, `rate`."""
    return json.loads((task.folder / run / "results.json").read_text(encoding="utf-8"))


def read_losses(task: Task, run: str) -> list[dict[str, Any]]:
    """Return the lines of `metrics.json` that report losses."""
    path = task.folder / run / "metrics.json"
    entries = read_json_lines(path) if path.exists() else []
    return [entry for entry in entries if "total_loss" in entry]


def _watch(task: Task, processes: dict[str, subprocess.Popen]) -> None:
    bars = {
        run: tqdm(total=task.count_iterations(run), desc=f"{run:>15}", unit="step", position=i)
        for i, run in enumerate(processes)
        if run not in UNTRAINED
    }
    try:
        while True:
            ended = [process.poll() is not None for process in processes.values()]
            for run, bar in bars.items():
                losses = read_losses(task, run)
                if losses:
                    bar.n = losses[-1]["iteration"] + 1
                    bar.set_postfix_str(f"loss {losses[-1]['total_loss']:.2f}", refresh=False)
                    bar.refresh()
            for run, process in processes.items():
                if process.poll():
                    raise CdlError(_failure(task, run))
            if all(ended):
                return
            time.sleep(POLL_SECONDS)
    finally:
        for bar in bars.values():
            bar.close()


def _failure(task: Task, run: str) -> str:
    log = Path(task.folder / run / "command.log")
    last = ["", *log.read_text(errors="replace", encoding="utf-8").strip().splitlines()][-1]
    return f"the run {run} failed: {last} (full log: {log})"
