"""What trainings report, compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Point:
    """A training, or the mean of several that differ in the seed.

    Attributes:
        name: of the point.
        curve: points of one curve are joined by a line; empty for a point of its own.
        values: what was asked for, such as `rate/bpp`.
        seeds: how many trainings.
    """

    name: str
    curve: str
    values: Mapping[str, float]
    seeds: int


def read_value(folder: str | Path, key: str) -> float:
    """A value of a training's `results.json`, such as `rate/bpp`.

    Raises:
        FileNotFoundError: if the folder has no results.
        ValueError: if they lack the value.
    """
    path = Path(folder) / "results.json"
    if not path.is_file():
        raise FileNotFoundError(f"there are no results {path}: has the training ended?")
    results = json.loads(path.read_text())
    if not isinstance(results, dict):
        raise ValueError(f"{path} holds no results")
    task, _, name = key.partition("/")
    value = results.get(task, {}).get(name)
    if value is None:
        known = [f"{t}/{n}" for t, each in results.items() for n in each]
        raise ValueError(f"{path} has no {key!r}; it has {', '.join(known)}")
    return value


def read_point(name: str, folders: Sequence[str | Path], keys: Sequence[str]) -> Point:
    """The means of values over trainings.

    Args:
        name: `point`, or `curve:point` for a point of a curve.

    Raises:
        FileNotFoundError, ValueError: as read_value.
    """
    if not folders:
        raise ValueError(f"point {name!r} has no folder: give NAME FOLDER ...")
    curve, _, point = name.rpartition(":")
    values = {key: fmean(read_value(folder, key) for folder in folders) for key in keys}
    return Point(point, curve, values, len(folders))


def tradeoff_figure(points: Sequence[Point], x: str, y: str) -> Figure:
    """Points named beside their marks; those of a curve joined in the order of x."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    axis = figure.subplots()
    for curve in dict.fromkeys(point.curve for point in points):
        members = sorted((p for p in points if p.curve == curve), key=lambda point: point.values[x])
        places = [(p.values[x], p.values[y]) for p in members]
        axis.plot(*zip(*places, strict=True), "o-" if curve else "o", label=curve or None)
        for member, place in zip(members, places, strict=True):
            axis.annotate(member.name, place, (4, 4), textcoords="offset points", fontsize=8)
    axis.set(xlabel=x, ylabel=y)
    axis.grid(alpha=0.3)
    if any(point.curve for point in points):
        axis.legend()
    return figure
