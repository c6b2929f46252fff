"""Files from the net: checked before they are used, and continued where they were cut."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse, IncompleteRead
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tqdm import tqdm

from cdl_d2.errors import CdlError
from cdl_d2.files import sha256_of

MIRROR = "CDL_MIRROR"
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
TIMEOUT = 30  # seconds without a byte
CHUNK = 1 << 16
PATIENCE = 1  # seconds before a progress bar appears


def is_safe_url(url: str) -> bool:
    """Whether a URL is of https; plain http only reaches servers of this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or _is_local(url))


def _is_local(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname in LOCAL_HOSTS


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


def download(url: str, size: int, sha256: str, path: Path) -> None:
    """Fetch a file into its place, unless it is there; processes that do so at once take turns.

    What has arrived is kept in `SHA256.part` beside it if the connection is cut, and the next call
    goes on from there. Only a whole file with the right hash takes its place. With CDL_MIRROR the
    file of the same name under that address is fetched instead, and checked alike.

    Raises:
        FileNotFoundError: if the file cannot be fetched.
        CdlError: if the address is not of https, or size or hash are not those expected.
        OSError: if the folder cannot be written to.
    """
    url = _mirrored(url)
    if not is_safe_url(url):
        raise CdlError(f"{url} is not fetched: only https addresses are")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path.with_name(f"{sha256}.lock"), "a")  # noqa: SIM115
    except OSError as error:
        raise OSError(
            f"{path.parent} cannot be written to ({error.strerror}): set CDL_HOME to another folder"
        ) from error
    with lock, _locked(lock.fileno()):
        if path.exists():  # another process was faster
            return
        part = path.with_name(f"{sha256}.part")
        _fill(part, url, size)
        if (found := sha256_of(part)) != sha256:
            part.unlink()
            raise CdlError(
                f"{url} has SHA-256 {found}, {sha256} is expected: it is damaged or was replaced, "
                "and is not used"
            )
        os.replace(part, path)


@contextmanager
def _locked(file: int) -> Iterator[None]:
    """Hold a lock, which ends with its process at the latest.

    Its file stays: were it removed, one process could wait for it while another makes a new one.
    """
    import fcntl

    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _mirrored(url: str) -> str:
    mirror = os.environ.get(MIRROR)
    return f"{mirror.rstrip('/')}/{urlsplit(url).path.rsplit('/', 1)[-1]}" if mirror else url


def _fill(part: Path, url: str, size: int) -> None:
    """Fetch what a part lacks, never more than `size` bytes in all."""
    have = part.stat().st_size if part.exists() else 0
    if have > size:
        part.unlink()
        have = 0
    if have == size:
        return
    with _request(url, have) as response:
        if response.status != 206:  # all of it, whatever was asked for
            have = 0
        elif not _starts_at(response, have):
            raise FileNotFoundError(
                f"{url} answers with another range than was asked for, "
                f"{response.headers.get('Content-Range')!r}: delete {part} and try again"
            )
        if response.length is not None and have + response.length != size:
            raise CdlError(
                f"{url} has {have + response.length} bytes, {size} are expected: it was replaced, "
                "and is not used"
            )
        have = _copy(response, url, part, have, size)
    if have < size:
        raise _cut(url, f"after {have} of {size} bytes")


def _copy(response: HTTPResponse, url: str, part: Path, have: int, size: int) -> int:
    """Add what arrives to the first `have` bytes of a part, up to `size`; how many it has then."""
    bar = tqdm(
        desc=url.rsplit("/", 1)[-1],
        total=size,
        initial=have,
        unit="B",
        unit_scale=True,
        delay=PATIENCE,
    )
    with bar, open(part, "ab" if have else "wb") as file:
        while have < size and (chunk := _read(response, url, min(CHUNK, size - have))):
            file.write(chunk)
            have += len(chunk)
            bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    return have


def _starts_at(response: HTTPResponse, start: int) -> bool:
    return re.match(rf"bytes {start}-", response.headers.get("Content-Range") or "") is not None


def _request(url: str, start: int) -> HTTPResponse:
    """Ask for a file from a byte on; raises FileNotFoundError if there is no answer."""
    headers = {"User-Agent": "cdl_d2", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        return build_opener(_SafeRedirects).open(Request(url, headers=headers), timeout=TIMEOUT)
    except CdlError:
        raise
    except (OSError, HTTPException, ValueError) as error:
        if start and isinstance(error, HTTPError) and error.code == 416:  # it has become shorter
            return _request(url, 0)
        raise _unreachable(url, error) from error


def _read(response: HTTPResponse, url: str, count: int) -> bytes:
    """The next bytes, none at the end, or where the connection was closed."""
    try:
        return response.read(count)
    except IncompleteRead as error:
        return error.partial
    except (OSError, HTTPException) as error:
        raise _cut(url, f"({error})") from error


def _cut(url: str, how: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"{url}: the connection was cut {how}: try again, it goes on from there"
    )


def _unreachable(url: str, error: Exception) -> FileNotFoundError:
    reason = getattr(error, "reason", None) or error
    code = f"{error.code} " if isinstance(error, HTTPError) else ""
    return FileNotFoundError(
        f"{url} cannot be downloaded ({code}{reason}): try again with a network, set {MIRROR} to a "
        "mirror, or put the file into the cache by hand as docs/tutorials/zoo.md says"
    )


class _SafeRedirects(HTTPRedirectHandler):
    """Follows only to https; a server of this machine may lead to others of this machine."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if urlsplit(newurl).scheme != "https" and not (
            _is_local(req.full_url) and _is_local(newurl)
        ):
            raise CdlError(f"{req.full_url} leads to {newurl}, which is not https: not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
