"""Results of an evaluation, and the metrics that a card reports of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from cdl_d2.errors import CdlError
from cdl_d2.tasks import TASKS, Metric

RATE = {"rate/bpp": Metric("bits per pixel", 3)}


def card_metrics() -> dict[str, Metric]:
    """Return the metrics that a card reports, by key of `results.json`."""
    return {key: m for task in TASKS.values() for key, m in task.metrics.items()} | RATE


def read_tables(path: Path) -> dict[str, dict[str, Any]]:
    """Read the tables of a `results.json`, such as `{"rate": {"bpp": 0.25}}`.

    With several data sets there is a table of tables per data set.

    Raises:
        FileNotFoundError: if there is no such file.
        CdlError: if it is no JSON.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CdlError(f"{path} cannot be read as JSON: {error}") from error
    tables = results.items() if isinstance(results, dict) else ()
    return {table: values for table, values in tables if isinstance(values, dict)}


def flat_values(tables: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of tables by keys such as `rate/bpp`, or `val/rate/bpp`."""
    values: dict[str, Any] = {}
    for key, value in tables.items():
        if isinstance(value, dict):
            values |= flat_values(value, f"{prefix}{key}/")
        else:
            values[f"{prefix}{key}"] = value
    return values


def card_tables(values: dict[str, float]) -> dict[str, dict[str, float]]:
    """Return the metrics of a card as the tables of a `results.json`."""
    keys = {name: key for key, (name, _) in reversed(card_metrics().items())}
    tables: dict[str, dict[str, float]] = {}
    for name, value in values.items():
        if name in keys:
            table, key = keys[name].split("/")
            tables.setdefault(table, {})[key] = value
    return tables


def read_metrics(path: Path, needed: bool) -> dict[str, float]:
    """Read the metrics that a card reports from a training's `results.json`.

    Args:
        path: the `results.json`.
        needed: whether the file must exist.

    Returns:
        numbers by name, with several data sets by names such as `box AP (val)`.

    Raises:
        FileNotFoundError, CdlError: if the file cannot be read; CdlError if it has no tables.
    """
    if not needed and not path.is_file():
        return {}
    values, metrics = flat_values(read_tables(path)), {}
    if not values:
        raise CdlError(f"{path} has no results of an evaluation in it")
    for metric, (name, digits) in card_metrics().items():
        for key, value in values.items():
            is_number = isinstance(value, (int, float)) and math.isfinite(value)
            if is_number and f"/{key}".endswith(f"/{metric}"):
                dataset = key.removesuffix(metric).rstrip("/")
                metrics[f"{name} ({dataset})" if dataset else name] = round(value, digits)
    return metrics
