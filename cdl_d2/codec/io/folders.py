"""Listing of the files under a folder, across links and without files of operating systems."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

SYSTEM_NAMES = {  # files of operating systems and file servers, in lower case
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "#recycle", "#snapshot"),
    *("$recycle.bin", "system volume information", "lost+found"),
}


@dataclass
class Listing:
    """Files under a folder.

    Attributes:
        files: paths of requested files, sorted.
        skipped: paths of all other files, sorted.
        errors: errors of folders that could not be listed, by folder.
    """

    files: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    errors: dict[Path, OSError] = field(default_factory=dict)


def is_leftover(name: str) -> bool:
    """Return whether a file or folder is hidden, or belongs to an operating system."""
    hidden = name.startswith(".") and name != ".."
    return hidden or name.lower() in SYSTEM_NAMES


def list_files(folder: Path, is_wanted: Callable[[str], bool]) -> Listing:
    """List the files under a folder, without hidden ones and those of operating systems.

    `is_wanted` tells by its name whether a file is requested. Linked folders are followed after all
    others. No folder is listed twice, and none that contains `folder` itself.
    """
    listing = Listing()

    def note(error: OSError) -> None:
        listing.errors[Path(error.filename)] = error

    for parent, names in _walk(folder, note):
        for name in names:
            if not is_leftover(name):
                paths = listing.files if is_wanted(name) else listing.skipped
                paths.append(Path(parent, name))
    listing.files.sort()
    listing.skipped.sort()
    return listing


def list_folders(folder: Path) -> list[Path]:
    """List a folder and the folders under it that list_files visits, sorted."""
    return sorted(Path(parent) for parent, _ in _walk(folder))


def _walk(
    folder: Path, on_error: Callable[[OSError], None] | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder once, with the names of its files."""
    seen: set[tuple[int, int]] = set()
    for ancestor in Path(os.path.realpath(folder)).parents:
        with suppress(OSError):
            seen.add(_identity(ancestor))
    waiting = deque([str(folder)])
    while waiting:
        for parent, folders, names in os.walk(waiting.popleft(), onerror=on_error):
            if _identity(parent) in seen:
                folders.clear()
                continue
            seen.add(_identity(parent))
            folders[:] = sorted(name for name in folders if not is_leftover(name))
            paths = (os.path.join(parent, name) for name in folders)
            waiting += [path for path in paths if os.path.islink(path)]
            yield parent, names


def report_skipped(skipped: Sequence[object], *kinds: str) -> None:
    """Log the number of skipped files and an example; `kinds` were requested, such as `image`."""
    if len(skipped) == 1:
        log_once(f"skipped 1 file, not an {' or '.join(kinds)}: {skipped[0]}")
    elif skipped:
        names = " or ".join(f"{kind}s" for kind in kinds)
        log_once(f"skipped {len(skipped)} files, not {names}, such as {skipped[0]}")


@cache
def log_once(text: str) -> None:
    """Log a warning; equal ones only once."""
    logging.getLogger(__name__).warning(text)


def _identity(path: str | Path) -> tuple[int, int]:
    state = os.stat(path)
    return state.st_dev, state.st_ino
