"""What a training's `results.json` says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from cdl_d2.errors import CdlError
from cdl_d2.model_zoo import metrics

RESULTS = "results.json"  # in a training's folder


def read_tables(folder: str | Path) -> dict[str, dict[str, Any]]:
    """What a training's `results.json` says, such as `{"rate": {"bpp": 0.25}}`.

    Raises:
        FileNotFoundError: if the folder has no results.
        CdlError: if they are damaged.
    """
    path = Path(folder) / RESULTS
    if not path.is_file():
        raise FileNotFoundError(f"there are no results {path}: has the training ended?")
    return metrics.read_tables(path)


def read_value(folder: str | Path, key: str) -> float:
    """Read a value of a training's results, such as `rate/bpp`, or `val/rate/bpp` of one of several
    data sets.

    Raises:
        FileNotFoundError, CdlError: as read_tables; CdlError if they lack the value.
    """
    path, known = Path(folder) / RESULTS, metrics.flat_values(read_tables(folder))
    value = known.get(key)
    if value is None:
        raise CdlError(f"{path} has no {key!r}; it has {', '.join(known) or 'no results'}")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise CdlError(f"{path} has {value!r} for {key!r}, which is no finite number")
    return value
