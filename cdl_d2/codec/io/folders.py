"""Files under a folder: links are followed, and what operating systems leave there is no file."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

LEFTOVERS = {  # of operating systems and file servers, in lower case; hidden names are others
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "#recycle", "#snapshot"),
    *("$recycle.bin", "system volume information", "lost+found"),
}


@dataclass
class Listing:
    """Files under a folder.

    Attributes:
        files: those that were asked for, sorted.
        skipped: all others.
        errors: why folders could not be listed, by folder.
    """

    files: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    errors: dict[Path, OSError] = field(default_factory=dict)


def is_leftover(name: str) -> bool:
    """Return whether a file or folder is hidden, or is one that operating systems leave."""
    hidden = name.startswith(".") and name != ".."
    return hidden or name.lower() in LEFTOVERS


def list_files(folder: Path, is_wanted: Callable[[str], bool]) -> Listing:
    """List the files under a folder, without hidden ones and those that systems leave.

    Linked folders are followed after all others, and none is listed twice: neither one that is
    under the folder itself, nor one that the folder is in.

    Args:
        is_wanted: tells by a file's name whether it is asked for.
    """
    listing = Listing()

    def note(error: OSError) -> None:
        listing.errors[Path(error.filename)] = error

    for place, names in _walk(folder, note):
        for name in names:
            if not is_leftover(name):
                paths = listing.files if is_wanted(name) else listing.skipped
                paths.append(Path(place, name))
    listing.files.sort()
    listing.skipped.sort()
    return listing


def list_folders(folder: Path) -> list[Path]:
    """List a folder and those under it, sorted, as list_files goes through them."""
    return sorted(Path(place) for place, _ in _walk(folder))


def _walk(
    folder: Path, on_error: Callable[[OSError], None] | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder, once, with the names of its files."""
    seen: set[tuple[int, int]] = set()
    for parent in Path(os.path.realpath(folder)).parents:
        with suppress(OSError):
            seen.add(_identity(parent))
    waiting = deque([str(folder)])
    while waiting:
        for place, folders, names in os.walk(waiting.popleft(), onerror=on_error):
            if _identity(place) in seen:
                folders.clear()
                continue
            seen.add(_identity(place))
            folders[:] = sorted(name for name in folders if not is_leftover(name))
            inner = (os.path.join(place, name) for name in folders)
            waiting += [path for path in inner if os.path.islink(path)]
            yield place, names


def report_skipped(skipped: Sequence[object], *kinds: str) -> None:
    """Log how many files were skipped, with an example; the same line once.

    Args:
        skipped: names of the files.
        kinds: of files that were asked for, such as `image`.
    """
    if len(skipped) == 1:
        _report_once(f"skipped 1 file that is no {' or '.join(kinds)}: {skipped[0]}")
    elif skipped:
        wanted = " or ".join(f"{kind}s" for kind in kinds)
        _report_once(f"skipped {len(skipped)} files that are no {wanted}, such as {skipped[0]}")


@cache
def _report_once(text: str) -> None:
    logging.getLogger(__name__).warning(text)


def _identity(path: str | Path) -> tuple[int, int]:
    state = os.stat(path)
    return state.st_dev, state.st_ino
