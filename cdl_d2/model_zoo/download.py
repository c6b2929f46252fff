"""Weights of the zoo's models: from the address that a card says, or a mirror."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from cdl_d2.download import TIMEOUT, Download
from cdl_d2.errors import CdlError
from cdl_d2.files import sha256_of

MIRROR = "CDL_MIRROR"
OTHERWISE = (
    f"try again with a network, set {MIRROR} to a mirror, or put the file into the cache by hand "
    "as docs/tutorials/zoo.md says"
)


def check_file(path: Path, size: int, sha256: str) -> None:
    """Raise CdlError unless a file has this size and this SHA-256."""
    found = path.stat().st_size
    if found != size:
        raise CdlError(f"{path} has {found} bytes, {size} are expected: it is damaged, delete it")
    digest = sha256_of(path)
    if digest != sha256:
        raise CdlError(
            f"{path} has SHA-256 {digest}, {sha256} is expected: it is damaged, delete it"
        )


def download(url: str, size: int, sha256: str, path: Path, timeout: float = TIMEOUT) -> None:
    """Fetch a file into its place, unless it is there, see Download.

    With CDL_MIRROR the file of the same name under that address is fetched instead, and checked
    alike.

    Raises:
        FileNotFoundError, CdlError: as Download.fetch.
        OSError: if the folder cannot be written to.
    """
    wanted = Download(_mirrored(url), sha256, size, OTHERWISE, timeout)
    try:
        wanted.fetch(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise OSError(
            f"{path.parent} cannot be written to ({error.strerror}): set CDL_HOME to another folder"
        ) from error


def _mirrored(url: str) -> str:
    mirror = os.environ.get(MIRROR)
    return f"{mirror.rstrip('/')}/{urlsplit(url).path.rsplit('/', 1)[-1]}" if mirror else url
