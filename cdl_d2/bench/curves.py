"""Comparison of the results of trainings, rate-accuracy plots, and plots by iteration."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from cdl_d2.bench.results import read_value, value_label
from cdl_d2.errors import CdlError, imports_of_extra

with imports_of_extra("report"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
from cdl_d2.files import read_json_lines, write_atomically

STYLES = ("-", "--", ":", "-.")  # of keys in a plot by iteration


@dataclass(frozen=True)
class Point:
    """Results of a training, or their means over trainings with different seeds.

    Attributes:
        name: name of the point.
        curve: name of the curve whose points are joined by a line; empty for a single point.
        values: results by key, such as `rate/bpp`.
        seeds: number of trainings.
        ranges: least and greatest result by key, if there are several trainings.
    """

    name: str
    curve: str
    values: Mapping[str, float]
    seeds: int
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def read_point(name: str, folders: Sequence[str | Path], keys: Sequence[str]) -> Point:
    """Return the mean results of trainings.

    Args:
        name: `point`, or `curve:point` for a point of a curve.
        folders: folders of the trainings.
        keys: keys of the results.

    Raises:
        FileNotFoundError, CdlError: if results are missing or corrupted, or `folders` is empty.
    """
    if not folders:
        raise CdlError(f"point {name!r} has no model")
    curve, _, point = name.rpartition(":")
    results = {key: [read_value(folder, key) for folder in folders] for key in keys}
    values = {key: fmean(numbers) for key, numbers in results.items()}
    ranges = {key: (min(numbers), max(numbers)) for key, numbers in results.items()}
    return Point(point, curve, values, len(folders), ranges if len(folders) > 1 else {})


def curve_of(points: Sequence[Point], name: str, x: str) -> list[Point]:
    """Return the points of a curve, sorted by x.

    Raises:
        CdlError: if there are none.
    """
    members = [point for point in points if point.curve == name and x in point.values]
    if not members:
        names = sorted({point.curve for point in points if point.curve})
        raise CdlError(f"there is no curve {name!r}, only {names}")
    return sorted(members, key=lambda point: point.values[x])


def rate_saving(
    points: Sequence[Point], reference: str, curve: str, rate: str, accuracy: str
) -> float:
    """Return the Bjontegaard saving of a curve, in percent of the reference's bits.

    Bits saved at equal accuracy, averaged over the accuracies that both curves reach; negative if
    the curve needs more bits.

    Args:
        points: points of all curves.
        reference: name of the reference curve.
        curve: name of the curve.
        rate: key of the rate, such as `rate/bpp`.
        accuracy: key of the accuracy, such as `sem_seg/mIoU`.

    Raises:
        CdlError: if a curve has fewer than two points, its accuracy does not grow with its rate, or
            the curves have no accuracy in common.
    """
    with imports_of_extra("report"):
        import bjontegaard

    sides = []
    for name in (reference, curve):
        members = curve_of(points, name, rate)
        rates, values = ([point.values[key] for point in members] for key in (rate, accuracy))
        if rates[0] <= 0:
            raise CdlError(f"curve {name!r} has a {rate} of {rates[0]}, which is not above 0")
        if len(members) < 2 or any(b <= a for a, b in itertools.pairwise(values)):
            raise CdlError(
                f"curve {name!r} has the {accuracy} {values} in the order of its {rate}: a saving "
                "needs two points or more, each better than the one before"
            )
        sides.append((rates, values))
    accuracies = [values for _, values in sides]
    if max(values[0] for values in accuracies) >= min(values[-1] for values in accuracies):
        raise CdlError(
            f"curves {reference!r} and {curve!r} have no {accuracy} in common: "
            f"{' and '.join(f'{values[0]} to {values[-1]}' for values in accuracies)}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # small overlaps are common with few trainings
        return -bjontegaard.bd_rate(*sides[0], *sides[1], "pchip", require_matching_points=False)


def compare_trainings(
    keys: Sequence[str],
    runs: Sequence[tuple[str, str]],
    baselines: Sequence[tuple[str, str]] = (),
    plot: tuple[str, str] | None = None,
    output: Path | None = None,
    savings: Sequence[tuple[str, str]] = (),
) -> tuple[list[dict[str, Any]], list[str]]:
    """Read what trainings report, and draw one value against another.

    Args:
        keys: of the values, such as `bbox/AP`.
        runs: name and MODEL of each, see read_tables; those of one name are averaged.
        baselines: the same, without a rate.
        plot: two keys.
        output: PNG file of the plot.
        savings: a reference and a curve each, see rate_saving.

    Returns:
        rows of a table, and a sentence about each saving.

    Raises:
        CdlError, OSError: as read_point and rate_saving; for options that need each other.
    """
    if bool(plot) != bool(output):
        raise CdlError("--plot and --output belong together")
    if (baselines or savings) and not plot:
        raise CdlError("--baseline and --saving need --plot, whose keys they use")
    if output and not output.parent.is_dir():
        raise FileNotFoundError(f"--output {output}: there is no folder for it")
    keys = list(dict.fromkeys([*keys, *(plot or [])]))
    points = []
    for group, group_keys in ((baselines, plot[1:] if plot else ()), (runs, keys)):
        for name in dict.fromkeys(name for name, _ in group):
            folders = [folder for label, folder in group if label == name]
            points.append(read_point(name, folders, group_keys))
    rows = [
        {"run": f"{p.curve}: {p.name}" if p.curve else p.name, "seeds": p.seeds}
        | {key: p.values.get(key) for key in keys}
        for p in points
    ]
    sentences = [
        f"{curve} saves {rate_saving(points, reference, curve, *plot):.1f} % of the "
        f"{value_label(plot[0])} of {reference}"
        for reference, curve in savings
    ]
    if plot:
        _save(tradeoff_figure(points, *plot), output)
    return rows, sentences


def tradeoff_figure(points: Sequence[Point], x: str, y: str) -> Figure:
    """Plot points with their names; points of a curve are joined in the order of x.

    A point of several trainings has a bar from their least to their greatest y. Points without x,
    such as RGB models on original images, which have no rate, are horizontal lines.
    """
    figure = Figure(figsize=(7, 5), layout="constrained")
    axis = figure.subplots()
    for point in [point for point in points if x not in point.values]:
        axis.axhline(point.values[y], linestyle="--", color="gray")
        position = {"xy": (1, point.values[y]), "xycoords": axis.get_yaxis_transform()}
        offset = {"xytext": (-4, 4), "textcoords": "offset points", "fontsize": 8, "ha": "right"}
        axis.annotate(point.name, **position, **offset)
    coded = [point for point in points if x in point.values]
    for curve in dict.fromkeys(point.curve for point in coded):
        members = curve_of(coded, curve, x)
        positions = [(p.values[x], p.values[y]) for p in members]
        style = "o-" if curve else "o"
        (line,) = axis.plot(*zip(*positions, strict=True), style, label=curve or None)
        _draw_ranges(axis, members, x, y, line.get_color())
        for member, position in zip(members, positions, strict=True):
            axis.annotate(member.name, position, (4, 4), textcoords="offset points", fontsize=8)
    has_ranges = any(y in point.ranges for point in coded)
    spread = "; bars: least and greatest over seeds" if has_ranges else ""
    axis.set(xlabel=value_label(x), ylabel=value_label(y) + spread)
    axis.margins(x=0.12, y=0.08)  # room for names
    axis.grid(alpha=0.3)
    if any(point.curve for point in points):
        axis.legend()
    return figure


def _draw_ranges(axis: Axes, points: Sequence[Point], x: str, y: str, color: str) -> None:
    for point in points:
        if y in point.ranges:
            low, high = point.ranges[y]
            offsets = [[point.values[y] - low], [high - point.values[y]]]
            axis.errorbar(point.values[x], point.values[y], offsets, color=color, capsize=4)


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
        for key, style in zip(keys, itertools.cycle(STYLES), strict=False):
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
    _save(history_figure(runs, keys), output)


def _save(figure: Figure, path: Path) -> None:
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=80)
