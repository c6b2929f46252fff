"""Output folder of a conversion: its record, by which an interrupted one is continued."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cdl_d2.conversion.distillation import STATE_FILE
from cdl_d2.errors import CdlError
from cdl_d2.files import locked_folder, write_json

RECORD_FILE = "conversion.json"  # what was converted, and how


@contextmanager
def conversion_folder(
    folder: Path, record: Mapping[str, Any], results: Sequence[str]
) -> Iterator[None]:
    """Make a folder for a conversion that runs in the block, or continue an interrupted one.

    A block that fails before the first state of a distillation leaves nothing; one that succeeds
    has no more use for that state, which is removed.

    Args:
        folder: the folder.
        record: JSON values of all that the result depends on; written to RECORD_FILE.
        results: names of the files that the block writes.

    Raises:
        CdlError: if the folder has one of these, or the state of another conversion, or if another
            process converts to it.
    """
    path, is_new = folder / RECORD_FILE, not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with locked_folder(folder):
        for name in results:
            if (folder / name).exists():
                raise CdlError(
                    f"{folder} has a {name} of another conversion, or of one that has ended: give "
                    "another output folder"
                )
        if (folder / STATE_FILE).exists():
            _check_record(path, record)
        try:
            write_json(path, record)
            yield
        except BaseException:
            if not (folder / STATE_FILE).exists():
                path.unlink(missing_ok=True)
                with suppress(OSError):  # it is not empty
                    if is_new:
                        folder.rmdir()
            raise
        (folder / STATE_FILE).unlink(missing_ok=True)


def has_record(folder: Path, record: Mapping[str, Any]) -> bool:
    """Return whether a folder is of the conversion with a record."""
    try:
        _check_record(folder / RECORD_FILE, record)
    except CdlError:
        return False
    return True


def _check_record(path: Path, record: Mapping[str, Any]) -> None:
    """Raise CdlError unless a file has a record; the message names a value that differs."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        before = dict(content)
    except (OSError, TypeError, ValueError) as error:
        raise CdlError(
            f"{path.parent} has an interrupted conversion without its {path.name}: give another "
            "output folder"
        ) from error
    for key, value in json.loads(json.dumps(record)).items():
        if before.get(key) != value:
            raise CdlError(
                f"{path.parent} has an interrupted conversion with {key} "
                f"{str(before.get(key))[:200]}, not {str(value)[:200]}: repeat it, or give another "
                "output folder"
            )
