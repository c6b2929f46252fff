"""Output folder of a conversion: its record, by which an interrupted one is continued."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

from cdl_d2.conversion.distillation import STATE_FILE
from cdl_d2.conversion.report import Report
from cdl_d2.errors import CdlError
from cdl_d2.files import WEIGHTS_FILE, locked_folder, write_json

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
        results: names of the files that the block writes, WEIGHTS_FILE last.

    Raises:
        CdlError: if the folder has one of these, unless of the same conversion before its weights
            were written, or the state of another conversion; if another process converts to it.
    """
    path, is_new = folder / RECORD_FILE, not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with locked_folder(folder):
        existing = [name for name in results if (folder / name).exists()]
        if existing and (WEIGHTS_FILE in existing or not _has_record(path, record)):
            raise CdlError(
                f"{folder} has a {existing[0]} of another conversion, or of one that has ended: "
                "give another output folder"
            )
        if (folder / STATE_FILE).exists():
            _check_record(path, record)
        try:
            write_json(path, record)
            yield
        except BaseException:
            if not any((folder / name).exists() for name in (STATE_FILE, *results)):
                path.unlink(missing_ok=True)
                with suppress(OSError):  # it is not empty
                    if is_new:
                        folder.rmdir()
            raise
        (folder / STATE_FILE).unlink(missing_ok=True)


def read_finished_report(folder: Path, record: Mapping[str, Any]) -> Report | None:
    """Return the report in a folder if the conversion with a record has ended there."""
    if not (folder / WEIGHTS_FILE).exists() or not _has_record(folder / RECORD_FILE, record):
        return None
    with suppress(FileNotFoundError):
        return Report.load(folder)
    return None


def describe_images(files: Sequence[Path]) -> dict[str, Any]:
    """Return the number of files, and a hash of their paths, for a record."""
    paths = "\n".join(map(str, files))
    digest = hashlib.sha256(paths.encode("utf-8", "surrogateescape")).hexdigest()
    return {"count": len(files), "sha256": digest}


def describe_file(name: str) -> dict[str, Any]:
    """Return the name of a file and, if it is local, its size and time of writing, for a record."""
    path = Path(name)
    if not name or not path.is_file():
        return {"name": name}
    status = path.stat()
    return {"name": name, "bytes": status.st_size, "nanoseconds": status.st_mtime_ns}


def _has_record(path: Path, record: Mapping[str, Any]) -> bool:
    with suppress(CdlError):
        _check_record(path, record)
        return True
    return False


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
            old, new = _first_difference(before.get(key), value)
            raise CdlError(
                f"{path.parent} has an interrupted conversion with {key} {old}, not {new}: repeat "
                "it, or give another output folder"
            )


def _first_difference(old: object, new: object) -> tuple[str, str]:
    """Return the first lines of two values that differ, at most 200 characters of each."""
    lines = zip_longest(str(old).splitlines(), str(new).splitlines(), fillvalue="")
    a, b = next(pair for pair in lines if pair[0] != pair[1])
    return a.strip()[:200], b.strip()[:200]
