"""Download of model weights from the address on their card, or from a mirror."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from cdl_d2.download import download_file

MIRROR = "CDL_MIRROR"
ADVICE = (
    f"try again with a network, set {MIRROR} to a mirror, or copy the file into the cache by hand "
    "(docs/tutorials/zoo.md)"
)


def download(url: str, size: int, sha256: str, path: Path) -> None:
    """Download a file with download_file; with CDL_MIRROR set, from there under the same name.

    Raises:
        FileNotFoundError, CdlError: as download_file.
        OSError: if the folder cannot be written to.
    """
    if mirror := os.environ.get(MIRROR):
        url = f"{mirror.rstrip('/')}/{urlsplit(url).path.rsplit('/', 1)[-1]}"
    try:
        download_file(url, path, sha256, size, advice=ADVICE)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise OSError(
            f"{path.parent} cannot be written to ({error.strerror}): set CDL_HOME to another folder"
        ) from error
