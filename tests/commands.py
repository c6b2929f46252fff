"""The command `cdl`, run in this process: starting one of its own takes seconds."""

import contextlib
import importlib.util
import io
import os
import signal
import sys
from pathlib import Path

from cdl_d2.cli.main import main

ROOT = Path(__file__).parent.parent


def output_of(*words: object) -> str:
    """What a command prints, which must succeed."""
    status, output, errors = run(*words)
    assert status == 0, errors
    return output


def refused(*words: object) -> str:
    """The one line that a command prints about a user's mistake, with status 2."""
    status, _, errors = run(*words)
    assert status == 2, errors
    assert "Traceback" not in errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith("cdl"), errors
    return last


def run(*words: object) -> tuple[int, str, str]:
    """The exit status, output and errors of a command; data sets that it registers are forgotten.

    Raises:
        Exception: a bug's.
    """
    known = _data_sets()
    output, errors = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(output):
            status = main(words)
    finally:
        _forget(_data_sets() - known)
    return status, output.getvalue(), errors.getvalue()


def forked(*words: object, errors: Path) -> int:
    """Start a command in a fork of this process, which has imported everything; its number.

    Args:
        errors: file for its standard error.
    """
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        for number, handler in (
            (signal.SIGINT, signal.default_int_handler),  # background jobs ignore some
            (signal.SIGTERM, signal.SIG_DFL),
        ):
            signal.signal(number, handler)
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        sys.stderr = open(errors, "w", encoding="utf-8")  # noqa: SIM115
        status = main(words)
    except SystemExit as left:
        status = left.code
    finally:
        sys.stderr.flush()
        os._exit(status)


def in_checkout(**environment: str) -> dict[str, object]:
    """Keywords for subprocess."""
    ours = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return {"cwd": ROOT, "env": {**os.environ, **ours, **environment}}


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
