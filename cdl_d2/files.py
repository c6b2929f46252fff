"""Writing files so that no partial one is ever left under its final name."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cdl_d2.errors import CdlError


@contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; it takes `path`'s place only if the block succeeds and
    the disk has taken everything.

    The block must write by means that report what fails, as Python's own files do.

    Raises:
        OSError: if the disk is full, or there is no place for the file.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.touch()  # an OSError that names the place, whatever writes the content
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())  # some disks say only now that they are full
        os.chmod(temporary, 0o666 & ~_umask())  # some writers make files that only they can read
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON, for people to read, with write_atomically; what is not a number becomes null."""
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(without_nan(content), indent=2) + "\n")


def check_empty_folder(path: Path) -> None:
    """Raise CdlError if there is something at `path` that is not an empty folder."""
    if path.exists() and (path.is_file() or any(path.iterdir())):
        raise CdlError(f"{path} is not an empty folder: choose another")


def without_nan(content: Any) -> Any:
    """The same content with None for NaN, which JSON does not have."""
    if isinstance(content, dict):
        return {key: without_nan(value) for key, value in content.items()}
    return None if isinstance(content, float) and math.isnan(content) else content


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current
