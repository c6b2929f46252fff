"""Commands of tools/, run in this process: starting one of their own takes seconds."""

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


def output_of(tool: str, *words: object) -> str:
    """What a command prints, which must succeed."""
    code, output, errors = _run(tool, words)
    assert code == 0, errors
    return output


def refused(tool: str, *words: object) -> str:
    """The last line that a command prints on standard error before it exits with status 1."""
    code, _, errors = _run(tool, words)
    assert code == 1, errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith(f"{Path(tool).stem}: "), errors
    return last


def _run(tool: str, words: tuple[object, ...]) -> tuple[int, str, str]:
    before, known = signal.getsignal(signal.SIGTERM), _data_sets()
    output, errors = io.StringIO(), io.StringIO()
    try:
        with (
            patch.object(sys, "argv", [tool, *map(str, words)]),
            contextlib.redirect_stderr(errors),
            contextlib.redirect_stdout(output),
            pytest.raises(SystemExit) as left,
        ):
            runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")
    finally:
        signal.signal(signal.SIGTERM, before)
        _forget(_data_sets() - known)
    return left.value.code, output.getvalue(), errors.getvalue()


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
