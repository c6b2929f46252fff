"""The file `metrics.json` of a training: a JSON object per line, Detectron2's format."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from cdl_d2.files import read_json_lines, without_nan, write_text


def append_metrics(folder: Path, values: dict[str, Any]) -> None:
    """Append a line to `metrics.json` in a folder."""
    with (folder / "metrics.json").open("a", encoding="utf-8") as file:
        file.write(_line(values))


def drop_metrics_from(folder: Path, iteration: int) -> None:
    """Remove the lines of an iteration and later ones, which an interrupted training wrote."""
    path = folder / "metrics.json"
    if path.exists():
        kept = [line for line in read_json_lines(path) if line.get("iteration", 0) < iteration]
        write_text(path, "".join(map(_line, kept)))


class LossMeans:
    """Means of losses since the last report."""

    def __init__(self):
        self._losses: dict[str, list[float]] = defaultdict(list)
        self._start = time.perf_counter()

    def add(self, losses: dict[str, float]) -> None:
        """Add the losses of an iteration."""
        for name, value in losses.items():
            self._losses[name].append(value)

    def take(self) -> dict[str, float]:
        """Return mean losses, `total_loss` and `time`, seconds per iteration, and start anew."""
        count = max(map(len, self._losses.values()))
        means = {name: fmean(values) for name, values in self._losses.items()}
        seconds = (time.perf_counter() - self._start) / count
        self.__init__()
        return means | {"total_loss": sum(means.values()), "time": seconds}


def _line(values: dict[str, Any]) -> str:
    return json.dumps(without_nan(values), sort_keys=True) + "\n"
