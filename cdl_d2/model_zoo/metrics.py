"""Results of an evaluation, and those of them that a card reports."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from cdl_d2.errors import CdlError

# Keys of results.json: the name on a card, and the number of digits.
METRICS = {
    "bbox/AP": ("box AP", 1),
    "segm/AP": ("mask AP", 1),
    "keypoints/AP": ("keypoint AP", 1),
    "panoptic_seg/PQ": ("PQ", 1),
    "sem_seg/mIoU": ("mIoU", 1),
    "sem_seg/IoU": ("mIoU", 1),  # of Cityscapes
    "attributes/accuracy": ("attribute accuracy", 1),
    "attributes/balanced_accuracy": ("balanced attribute accuracy", 1),
    "classification/top1": ("top-1", 1),
    "rate/bpp": ("bits per pixel", 3),
}


def read_tables(path: Path) -> dict[str, dict[str, Any]]:
    """Read the tables of a `results.json`, such as `{"rate": {"bpp": 0.25}}`; of several data sets
    a table of tables for each.

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


def tables_of_card(card_metrics: dict[str, float]) -> dict[str, dict[str, float]]:
    """Return the metrics of a card as the tables of a `results.json`."""
    keys = {name: key for key, (name, _) in reversed(METRICS.items())}
    tables: dict[str, dict[str, float]] = {}
    for name, value in card_metrics.items():
        if name in keys:
            table, key = keys[name].split("/")
            tables.setdefault(table, {})[key] = value
    return tables


def read_metrics(path: Path, needed: bool) -> dict[str, float]:
    """Read the metrics that a card reports of a training's results.json, by name, of several data
    sets as `box AP (val)`; nothing if there is no file, unless it is needed.

    Raises:
        FileNotFoundError, CdlError: if the file cannot be read; CdlError if it has no tables.
    """
    if not needed and not path.is_file():
        return {}
    values, metrics = flat_values(read_tables(path)), {}
    if not values:
        raise CdlError(f"{path} has no results of an evaluation in it")
    for metric, (name, digits) in METRICS.items():
        for key, value in values.items():
            is_number = isinstance(value, (int, float)) and math.isfinite(value)
            if is_number and f"/{key}".endswith(f"/{metric}"):
                dataset = key.removesuffix(metric).rstrip("/")
                metrics[f"{name} ({dataset})" if dataset else name] = round(value, digits)
    return metrics
