"""Downloads over https by pooch, limited in size and time, and verified by SHA-256."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urljoin, urlsplit

from tqdm import tqdm

from cdl_d2.errors import CdlError
from cdl_d2.files import check_content, write_atomically

if TYPE_CHECKING:
    from requests import Response

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
SOCKET_TIMEOUT_S = 30.0  # without a byte
MAX_SECONDS = 2 * 60 * 60
MAX_BYTES = 1 << 31  # of a file of unknown size
CHUNK_BYTES = 1 << 16


def is_safe_url(url: str) -> bool:
    """Return whether a URL is https, or http to a server on this machine."""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and (parts.scheme == "https" or _is_local(url))
    except ValueError:
        return False


def download_file(
    url: str,
    path: Path,
    sha256: str,
    size: int | None = None,
    *,
    max_bytes: int = MAX_BYTES,
    max_seconds: float = MAX_SECONDS,
    advice: str = "try again with a network",
) -> None:
    """Download a file unless it is at `path` already, and verify its content.

    Only a complete and verified file appears at `path`, also if several processes download it.

    Args:
        url: https address; redirects must lead to https, too.
        path: path of the file.
        sha256: hexadecimal digest of the content, or its first digits.
        size: number of bytes; None if unknown, then at most `max_bytes`.
        max_bytes: limit of the size if that is unknown.
        max_seconds: total time limit; a server that sends nothing for 30 s fails earlier.
        advice: what to do if the file cannot be downloaded; ends the error message.

    Raises:
        FileNotFoundError: if the file cannot be downloaded.
        CdlError: if the address is not https, or size or hash differ.
        OSError: if the folder cannot be written to.
    """
    if not is_safe_url(url):
        raise CdlError(f"{url} is not downloaded: expected an https address")
    if path.exists():
        check_content(path, sha256, size)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as temporary:
        with open(temporary, "wb") as file:
            limited = _LimitedFile(file, max_bytes if size is None else size, url)
            message = f"{url} takes more than {max_seconds:g} s to download: {advice}"
            _call_within(max_seconds, lambda: _fetch(url, limited, advice), message)
        check_content(temporary, sha256, size, url)


class _LimitedFile:
    """Binary file that raises CdlError instead of growing beyond `max_bytes`."""

    def __init__(self, file: BinaryIO, max_bytes: int, url: str):
        self._file, self.max_bytes, self._url = file, max_bytes, url
        self.flush = file.flush

    def write(self, content: bytes) -> None:
        if self._file.tell() + len(content) > self.max_bytes:
            raise CdlError(f"{self._url} is larger than the {self.max_bytes} bytes expected")
        self._file.write(content)


def _fetch(url: str, file: _LimitedFile, advice: str) -> None:
    """Write the content of a URL into a file; raise FileNotFoundError if that fails."""
    from pooch import HTTPDownloader
    from requests import ConnectionError as NoConnection
    from requests import RequestException

    name, total = url.rsplit("/", 1)[-1], file.max_bytes  # pooch corrects the total
    bar = tqdm(desc=name, total=total, unit="B", unit_scale=True, delay=1, leave=False)
    downloader = HTTPDownloader(
        progressbar=bar,
        chunk_size=CHUNK_BYTES,
        timeout=SOCKET_TIMEOUT_S,
        headers={"User-Agent": "cdl_d2", "Accept-Encoding": "identity"},
        hooks={"response": _check_redirect},
    )
    try:
        with bar:
            downloader(url, file, None)
    except CdlError:
        raise
    except NoConnection as error:
        # Of "Max retries exceeded with url: ...: NewConnectionError(...: REASON)" the reason.
        reason = getattr(error.args[0] if error.args else None, "reason", error)
        reason = str(reason).rpartition(": ")[2]
        raise FileNotFoundError(f"{url} cannot be downloaded ({reason}): {advice}") from error
    except (RequestException, ValueError) as error:
        raise FileNotFoundError(f"{url} cannot be downloaded ({error}): {advice}") from error


def _check_redirect(response: Response, **_: object) -> None:
    """Raise CdlError if a response redirects to http, unless both servers are on this machine."""
    if response.is_redirect:
        url, target = response.url, urljoin(response.url, response.headers["Location"])
        if not is_safe_url(target) or (_is_local(target) and not _is_local(url)):
            raise CdlError(f"{url} redirects to {target}: expected an https address")


def _call_within(seconds: float, function: Callable[[], None], message: str) -> None:
    """Call a function in a thread, and abandon it with FileNotFoundError after some seconds.

    A server that sends a byte now and then never exceeds the timeout of its socket.
    """
    outcome: futures.Future[None] = futures.Future()

    def call() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    if not futures.wait([outcome], seconds).done:
        raise FileNotFoundError(message)
    outcome.result()


def _is_local(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname in LOCAL_HOSTS
