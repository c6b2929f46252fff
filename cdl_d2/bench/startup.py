"""Processor time of new processes until the command line answers and a model predicts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from cdl_d2.errors import CdlError

TORCH = "import torch, torchvision"
PREDICTOR = f"{TORCH}; from cdl_d2 import Predictor"
PREDICTION = f"import sys; {PREDICTOR}; Predictor.load(sys.argv[1])(sys.argv[2])"


def time_startup(model: str, source: str, repeats: int) -> list[dict[str, Any]]:
    """Measure new processes in turn, with one thread each; return the fastest of each in seconds.

    Args:
        model: trained model, as `Predictor.load` takes it.
        source: file of an image or bitstream.
        repeats: processes of each kind.

    Raises:
        CdlError: if a process fails.
    """
    commands = {
        "cdl --help": ["-m", "cdl_d2.cli.start", "--help"],
        TORCH: ["-c", TORCH],
        PREDICTOR: ["-c", PREDICTOR],
        "the same, and a first prediction": ["-c", PREDICTION, model, source],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in tqdm(range(repeats), desc="processes", unit="round"):
        for name, arguments in commands.items():
            times[name].append(time_process([sys.executable, *arguments]))
    return [{"process": name, "cpu_s": min(seconds)} for name, seconds in times.items()]


def time_process(command: Sequence[str]) -> float:
    """Return the user and system time of a process, in seconds.

    Raises:
        CdlError: if it fails.
    """
    before, environment = os.times(), os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=environment, capture_output=True)
    if run.returncode:
        lines = run.stderr.decode(errors="replace").splitlines() or [f"status {run.returncode}"]
        raise CdlError(f"{command[-1]}: {lines[-1]}")
    after = os.times()
    return sum(after[i] - before[i] for i in (2, 3))  # of ended child processes
