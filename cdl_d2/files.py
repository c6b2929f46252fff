"""Atomic writing of files and folders, JSON, and hashes."""

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
MAX_NAME_LENGTH = 40  # characters of a file's name in that of its temporary file
ABANDONED_SECONDS = 24 * 60 * 60  # without a change, for temporary files of other machines
# What a training leaves in its output folder, named as in Detectron2.
CONFIG_FILE, WEIGHTS_FILE = "config.yaml", "model_final.pth"
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def is_disk_error(error: BaseException) -> bool:
    """Return whether an error means that a disk is full or failed."""
    return isinstance(error, OSError) and error.errno in DISK_ERRORS


@contextmanager
def write_atomically(path: str | Path, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` once the block succeeds and is on the disk.

    The block must write with functions that raise if a write fails, as Python's own files do.
    Those of PyTorch and safetensors may end the process: write the bytes that they return.

    Raises:
        FileExistsError: if the file exists and `replace` is False.
        OSError: if the disk is full or the folder is missing; the error names `path`.
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
    """Yield a temporary folder for files that becomes `path` once the block succeeds.

    Raises:
        OSError: if the disk is full, the parent folder is missing, or `path` exists.
    """
    path = Path(path)
    with _temporary(path, is_folder=True) as (temporary, _):
        yield temporary
        for file in temporary.iterdir():
            _flush(file)
        os.rename(temporary, path)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Keep other processes from this block for the same folder, where the file system has locks.

    Raises:
        CdlError: if another process is in the block.
        OSError: if there is no such folder.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise CdlError(
            f"another process writes to {folder}: wait for it, or give another folder"
        ) from error
    except OSError:  # a file system without locks: best effort
        pass
    try:
        yield
    finally:
        os.close(descriptor)


def write_text(path: str | Path, text: str, replace: bool = True) -> None:
    """Write text in UTF-8 with write_atomically."""
    with write_atomically(path, replace) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Any, replace: bool = True) -> None:
    """Write indented JSON with write_atomically; NaN and infinity become null."""
    write_text(path, json.dumps(without_nan(content), indent=2) + "\n", replace)


def check_empty_folder(path: Path) -> None:
    """Raise CdlError if `path` exists and is not an empty folder."""
    if path.exists() and (path.is_file() or any(path.iterdir())):
        raise CdlError(f"{path} is not an empty folder: choose another")


def read_json_lines(path: str | Path) -> list[dict[str, Any]]:
    """Return the JSON objects of a file with one per line; skip incomplete lines."""
    records = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        with suppress(TypeError, ValueError):
            records.append(dict(json.loads(line)))
    return records


def read_lines(path: str | Path) -> list[str]:
    """Return the lines of a UTF-8 text without blank ones and surrounding spaces.

    Raises:
        CdlError: if the file is not UTF-8.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise CdlError(f"{path} is not a UTF-8 text: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def without_nan(content: Any) -> Any:
    """Return the content with None for NaN and infinity, which JSON does not have."""
    if isinstance(content, dict):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def check_regular_file(path: str | Path) -> None:
    """Raise CdlError for a folder or a pipe, which would block its reader."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise CdlError(f"{path} is not a regular file")


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits; raise CdlError for a folder or pipe."""
    check_regular_file(path)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def check_content(path: Path, sha256: str, size: int | None = None, source: str = "") -> None:
    """Raise CdlError unless a file has this size, if known, and SHA-256, or its first digits.

    `source` is the name of a downloaded file in the message.
    """
    byte_count = path.stat().st_size
    advice = "it is corrupted or was replaced" + ("" if source else "; delete it and try again")
    if size not in (None, byte_count):
        raise CdlError(f"{source or path} has {byte_count} bytes, expected {size}: {advice}")
    if not (digest := sha256_of(path)).startswith(sha256):
        raise CdlError(f"{source or path} has SHA-256 {digest}, expected {sha256}: {advice}")


@contextmanager
def _temporary(path: Path, is_folder: bool) -> Iterator[tuple[Path, int]]:
    """Create a file or folder with a unique name, yield it and its mode, then remove it.

    It stays locked while its process lives, which distinguishes it from files of killed processes.
    """
    _remove_leftovers(path.parent)
    try:
        temporary, descriptor = _create(path, is_folder)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    try:
        yield temporary, os.fstat(descriptor).st_mode & 0o777
    except OSError as error:
        is_unnamed = error.filename is None and is_disk_error(error)
        if is_unnamed or error.filename == str(temporary):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        _remove(temporary)
        os.close(descriptor)


def _create(path: Path, is_folder: bool) -> tuple[Path, int]:
    """Create a file or folder beside `path`, and lock it if the file system supports locks."""
    while True:
        unique = f"{secrets.token_hex(8)}.{_machine()}"
        temporary = path.with_name(f".{path.name[:MAX_NAME_LENGTH]}.{unique}{SUFFIX}")
        if is_folder:
            temporary.mkdir()
            descriptor = os.open(temporary, os.O_DIRECTORY)
        else:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if temporary.exists():  # else another process removed it as a leftover before the lock
            return temporary, descriptor
        os.close(descriptor)


def _link(temporary: Path, path: Path) -> None:
    """Rename a file unless `path` exists; of several processes at once, one succeeds."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError as error:  # a file system without links: best effort
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        os.replace(temporary, path)


def _flush(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())  # some disks report only now that they are full


@cache  # once per folder: it may hold many files
def _remove_leftovers(folder: Path) -> None:
    """Remove temporary files of killed processes from a folder.

    Locks of other machines may be invisible here: their files must also be old.
    """
    for temporary in folder.glob(f".*{SUFFIX}"):
        with suppress(OSError):  # its process lives, or it belongs to another user
            state = temporary.lstat()
            is_ours = temporary.name.endswith(f".{_machine()}{SUFFIX}")
            if not is_ours and time.time() - state.st_mtime < ABANDONED_SECONDS:
                continue
            if not (stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode)):
                continue  # not written by this package; a pipe would block
            descriptor = os.open(temporary, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(temporary)
            finally:
                os.close(descriptor)


def _machine() -> str:
    """Return eight hexadecimal digits that identify this machine."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _remove(temporary: Path) -> None:
    if temporary.is_dir():
        shutil.rmtree(temporary, ignore_errors=True)
    else:
        temporary.unlink(missing_ok=True)
