"""Writing files so that no partial one is left under its final name; reading what others left."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from cdl_d2.errors import CdlError

SUFFIX = ".cdl-partial"
LONGEST = 40  # characters of a file's name in that of its temporary one
OLD = 24 * 60 * 60  # seconds without a change after which a temporary file is not written any more
# What a training leaves in its output folder, named as in Detectron2.
CONFIG_FILE, WEIGHTS_FILE = "config.yaml", "model_final.pth"
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def is_disk_error(error: BaseException) -> bool:
    """Whether a disk was full or failed, rather than a path being wrong."""
    return isinstance(error, OSError) and error.errno in DISK_ERRORS


@contextmanager
def write_atomically(path: str | Path, replace: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `path`; it takes `path`'s place only if the block succeeds and
    the disk has taken everything.

    The block must write by means that report what fails, as Python's own files do. PyTorch's and
    safetensors' do not: write the bytes that they make, see weights_file.

    Args:
        replace: whether another file may be at `path`.

    Raises:
        FileExistsError: if there is one and may not be.
        OSError: if the disk is full, or there is no place for the file; it names `path`.
    """
    path = Path(path)
    with _temporary(path, is_folder=False) as (temporary, mode):
        yield temporary
        _flush(temporary)
        os.chmod(temporary, mode)  # some writers make files that only they can read
        if replace:
            os.replace(temporary, path)
        else:
            _link(temporary, path)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """As write_atomically, for a folder of files; nothing may be at `path`.

    Raises:
        OSError: if the disk is full, there is no place for the folder, or something is at `path`.
    """
    path = Path(path)
    with _temporary(path, is_folder=True) as (temporary, _):
        yield temporary
        for each in temporary.iterdir():
            _flush(each)
        os.rename(temporary, path)


def write_text(path: str | Path, text: str, replace: bool = True) -> None:
    """Write text, in UTF-8, with write_atomically."""
    with write_atomically(path, replace) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Any, replace: bool = True) -> None:
    """Write JSON, for people to read, with write_atomically; what is not a number becomes null."""
    write_text(path, json.dumps(without_nan(content), indent=2) + "\n", replace)


def check_empty_folder(path: Path) -> None:
    """Raise CdlError if there is something at `path` that is not an empty folder."""
    if path.exists() and (path.is_file() or any(path.iterdir())):
        raise CdlError(f"{path} is not an empty folder: choose another")


def read_json_lines(path: str | Path) -> list[dict[str, Any]]:
    """The JSON objects of a file with one a line; what was cut off, or is being written, is left
    out."""
    entries = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            entries.append(dict(json.loads(line)))
        except (TypeError, ValueError):
            continue
    return entries


def without_nan(content: Any) -> Any:
    """Return the same content with None for NaN and infinity, which JSON does not have."""
    if isinstance(content, dict):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def check_file(path: str | Path) -> None:
    """Raise CdlError if something that is no file is at a path: a pipe would be waited for."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise CdlError(f"{path} is no regular file")


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits; raises as check_file."""
    check_file(path)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _temporary(path: Path, is_folder: bool) -> Iterator[tuple[Path, int]]:
    """A file or folder of a name that no other process has, and its mode; gone afterwards.

    It is locked while its process lives, so that what a killed one left can be told apart.
    """
    _remove_leftovers(path.parent)
    try:
        temporary, held = _create(path, is_folder)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    try:
        yield temporary, os.fstat(held).st_mode & 0o777
    except OSError as error:
        at_fault = error.filename is None and is_disk_error(error)
        if at_fault or error.filename == str(temporary):  # whose name says nothing to anyone
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        _remove(temporary)
        os.close(held)


def _create(path: Path, is_folder: bool) -> tuple[Path, int]:
    """Make a file or folder beside `path`, and hold its lock where the file system has locks."""
    while True:
        unique = f"{secrets.token_hex(8)}.{_machine()}"
        temporary = path.with_name(f".{path.name[:LONGEST]}.{unique}{SUFFIX}")
        if is_folder:
            temporary.mkdir()
            held = os.open(temporary, os.O_DIRECTORY)
        else:
            held = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with suppress(OSError):
            fcntl.flock(held, fcntl.LOCK_EX)
        if temporary.exists():  # else another process took it for a leftover, before the lock
            return temporary, held
        os.close(held)


def _link(temporary: Path, path: Path) -> None:
    """Give a file its name unless another has it: of several processes at once, one succeeds."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError as error:  # a file system without links, where only the order of things helps
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        os.replace(temporary, path)


def _flush(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())  # some disks say only now that they are full


@cache  # once for a folder: it may hold many files
def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes have left in a folder.

    A lock of another machine may not be seen: its files must also be old.
    """
    for temporary in folder.glob(f".*{SUFFIX}"):
        with suppress(OSError):  # its process lives, or it is another user's
            state = temporary.lstat()
            is_ours = temporary.name.endswith(f".{_machine()}{SUFFIX}")
            if not is_ours and time.time() - state.st_mtime < OLD:
                continue
            if not (stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode)):
                continue  # nothing that was written here; a pipe would be waited for
            held = os.open(temporary, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(temporary)
            finally:
                os.close(held)


def _machine() -> str:
    """Return eight hexadecimal digits that stand for the name of this machine."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _remove(temporary: Path) -> None:
    if temporary.is_dir():
        shutil.rmtree(temporary, ignore_errors=True)
    else:
        temporary.unlink(missing_ok=True)
