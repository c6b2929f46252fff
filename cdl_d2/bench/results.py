"""What a training's `results.json` says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from cdl_d2.errors import CdlError

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
    try:
        results = json.loads(path.read_text())
    except ValueError as error:
        raise CdlError(f"{path} cannot be read as JSON: {error}") from error
    tables = results.items() if isinstance(results, dict) else ()
    return {table: values for table, values in tables if isinstance(values, dict)}


def read_value(folder: str | Path, key: str) -> float:
    """A value of a training's results, such as `rate/bpp`.

    Raises:
        FileNotFoundError, CdlError: as read_tables; CdlError if they lack the value.
    """
    path, tables = Path(folder) / RESULTS, read_tables(folder)
    known = {f"{table}/{name}": v for table, each in tables.items() for name, v in each.items()}
    value = known.get(key)
    if value is None:
        raise CdlError(f"{path} has no {key!r}; it has {', '.join(known) or 'no results'}")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise CdlError(f"{path} has {value!r} for {key!r}, which is no finite number")
    return value
