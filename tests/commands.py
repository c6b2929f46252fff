"""Commands of tools/ that are expected to refuse their input, run in this process: starting one
takes seconds."""

import contextlib
import importlib.util
import io
import runpy
import signal
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

ROOT = Path(__file__).parent.parent


def refused(tool: str, *words: object) -> str:
    """The last line that a command prints on standard error before it exits with status 1."""
    before, known = signal.getsignal(signal.SIGTERM), _data_sets()
    errors = io.StringIO()
    try:
        with (
            patch.object(sys, "argv", [tool, *map(str, words)]),
            contextlib.redirect_stderr(errors),
            contextlib.redirect_stdout(io.StringIO()),
            pytest.raises(SystemExit) as left,
        ):
            runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")
    finally:
        signal.signal(signal.SIGTERM, before)
        _forget(_data_sets() - known)
    assert left.value.code == 1, errors.getvalue()
    last = errors.getvalue().strip().splitlines()[-1]
    assert last.startswith(f"{Path(tool).stem}: "), errors.getvalue()
    return last


def _data_sets() -> set[str]:
    if not importlib.util.find_spec("detectron2"):
        return set()
    from detectron2.data import DatasetCatalog

    return set(DatasetCatalog.list())


def _forget(names: set[str]) -> None:
    for name in names:
        from detectron2.data import DatasetCatalog, MetadataCatalog

        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
