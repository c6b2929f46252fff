"""Plots of what trainings report, by iteration."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from cdl_d2.errors import CdlError, imports_of_extra
from cdl_d2.files import read_json_lines, write_atomically

with imports_of_extra("report"):
    from matplotlib.figure import Figure

STYLES = ("-", "--", ":", "-.")  # of keys


def read_history(folder: str | Path, key: str) -> list[tuple[int, float]]:
    """Return (iteration, value) pairs of a key in a training's `metrics.json`.

    Args:
        folder: folder of the training.
        key: such as `total_loss`, `loss_cls` or, of evaluations, `classification/loss`.

    Raises:
        FileNotFoundError: if the folder has no metrics.
        CdlError: if they lack the key.
    """
    path = Path(folder) / "metrics.json"
    if not path.is_file():
        raise FileNotFoundError(f"there are no metrics {path}: has a training begun there?")
    lines = [line for line in read_json_lines(path) if "iteration" in line]
    history = [(line["iteration"], line[key]) for line in lines if line.get(key) is not None]
    if not history:
        names = sorted({name for line in lines for name in line} - {"iteration"})
        raise CdlError(f"{path} has no {key!r}; it has {', '.join(names) or 'nothing'}")
    return history


def history_figure(runs: Sequence[tuple[str, str]], keys: Sequence[str]) -> Figure:
    """Plot a line per training and key; trainings with the same name have the same color.

    Args:
        runs: name and output folder of each training.
        keys: keys of `metrics.json`, each with its own line style.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    axis = figure.subplots()
    names = list(dict.fromkeys(name for name, _ in runs))
    labelled = set()
    for name, folder in runs:
        for key, style in zip(keys, cycle(STYLES), strict=False):
            history = read_history(folder, key)
            label = None if (name, key) in labelled else f"{name}: {key}"
            labelled.add((name, key))
            mark = "o" if len(history) < 50 else ""  # evaluations are few
            color = f"C{names.index(name) % 10}"
            axis.plot(*zip(*history, strict=True), style + mark, color=color, label=label, ms=3)
    axis.set(xlabel="iteration")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return figure


def draw_history(runs: Sequence[tuple[str, str]], keys: Sequence[str], output: Path) -> None:
    """Write the figure of `history_figure` to a PNG file."""
    with write_atomically(output) as temporary:
        history_figure(runs, keys).savefig(temporary, format="png", dpi=80)
