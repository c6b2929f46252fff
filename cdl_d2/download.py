"""Files from the net: bounded, checked before they are used, and continued where they were cut."""

from __future__ import annotations

import fcntl
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException, HTTPResponse, IncompleteRead
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeVar
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tqdm import tqdm

from cdl_d2.errors import CdlError
from cdl_d2.files import check_file, sha256_of

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
TIMEOUT = 30.0  # seconds without a byte
SLOWEST = 1 << 14  # bytes a second, over all of a download but its first ANSWER timeouts
ANSWER = 4
LARGEST = 1 << 31  # bytes of a file whose size is not known
CHUNK = 1 << 16
Answer = TypeVar("Answer")
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


@dataclass(frozen=True)
class Download:
    """A file in the net.

    Attributes:
        url: of https.
        sha256: of its content; or the first digits of that.
        size: bytes; None if not known, then it is fetched in one piece.
        otherwise: what to do if it cannot be had.
        timeout: seconds without a byte; and a quarter of those before the answer begins. Then
            SLOWEST bytes a second are expected.
        largest: bytes of a file whose size is not known.
    """

    url: str
    sha256: str
    size: int | None = None
    otherwise: str = "try again with a network"
    timeout: float = TIMEOUT
    largest: int = LARGEST

    def fetch(self, path: Path) -> None:
        """Put the file into its place, unless it is there; processes that do so at once take turns.

        What has arrived is kept in `SHA256.part` beside it if the connection is cut, and the next
        call goes on from there. Only a whole file with the right hash takes its place.

        Raises:
            FileNotFoundError: if the file cannot be fetched.
            CdlError: if the address is not of https, or size or hash are not those expected.
            OSError: if the folder cannot be written to.
        """
        if not is_safe_url(self.url):
            raise CdlError(f"{self.url} is not fetched: only https addresses are")
        if path.exists():  # perhaps where nothing can be written
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{self.sha256}.part")
        lock_path = part.with_suffix(".lock")
        for place in (part, lock_path):
            check_file(place)
        with open(lock_path, "ab") as lock, _locked(lock.fileno()):
            if path.exists():  # another process was faster
                return
            self._fill(part)
            if not (found := sha256_of(part)).startswith(self.sha256):
                part.unlink()
                raise CdlError(
                    f"{self.url} has SHA-256 {found}, {self.sha256} is expected: it is damaged or "
                    "was replaced, and is not used"
                )
            os.replace(part, path)

    def _fill(self, part: Path) -> None:
        """Fetch what a part lacks, never more than the size in all."""
        have = part.stat().st_size if part.exists() else 0
        if self.size is None or have > self.size:
            have = 0
        if have == self.size:
            return
        start = time.monotonic()
        response = self._within(ANSWER * self.timeout, partial(self._request, have))
        # It is closed when it is forgotten: a thread that is left behind may still read from it.
        if response.status != 206:  # all of it, whatever was asked for
            have = 0
        elif not _starts_at(response, have):
            raise FileNotFoundError(
                f"{self.url} answers with another range than was asked for, "
                f"{response.headers.get('Content-Range')!r}: delete {part} and try again"
            )
        size = self._checked_size(None if response.length is None else have + response.length)
        have = self._copy(response, part, have, size, start)
        if size is not None and have < size:
            raise self._cut(f"after {have} of {size} bytes")

    def _checked_size(self, announced: int | None) -> int | None:
        """The size, as known or as the server says."""
        if self.size is None:
            if announced is not None and announced > self.largest:
                raise self._too_large(announced)
            return announced
        if announced not in (None, self.size):
            raise CdlError(
                f"{self.url} has {announced} bytes, {self.size} are expected: it was replaced, and "
                "is not used"
            )
        return self.size

    def _copy(
        self, response: HTTPResponse, part: Path, have: int, size: int | None, start: float
    ) -> int:
        """Add what arrives to the first `have` bytes of a part, up to `size`; how many it has.

        Args:
            start: of the download, on the monotonic clock.
        """
        limit = self.largest + 1 if size is None else size
        end = start + ANSWER * self.timeout - have / SLOWEST  # moves on with what arrives
        bar = tqdm(
            desc=self.url.rsplit("/", 1)[-1],
            total=size,
            initial=have,
            unit="B",
            unit_scale=True,
            delay=PATIENCE,
        )
        with bar, open(part, "ab" if have else "wb") as file:
            while have < limit:
                count = min(CHUNK, limit - have)
                left = end + (have + count) / SLOWEST - time.monotonic()
                chunk = self._within(left, partial(self._read, response, count))
                if not chunk:
                    break
                file.write(chunk)
                have += len(chunk)
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
        if size is None and have == limit:
            part.unlink()
            raise self._too_large(have)
        return have

    def _request(self, start: int) -> HTTPResponse:
        """Ask for the file from a byte on; raises FileNotFoundError if there is no answer."""
        headers = {"User-Agent": "cdl_d2", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        request = Request(self.url, headers=headers)
        try:
            return build_opener(_SafeRedirects).open(request, timeout=self.timeout)
        except CdlError:
            raise
        except (OSError, HTTPException, ValueError) as error:
            if start and isinstance(error, HTTPError) and error.code == 416:  # it became shorter
                return self._request(0)
            raise self._unreachable(error) from error

    def _read(self, response: HTTPResponse, count: int) -> bytes:
        """The next bytes, none at the end, or where the connection was closed."""
        try:
            return response.read(count)
        except IncompleteRead as error:
            return error.partial
        except (OSError, HTTPException, ValueError) as error:
            raise self._cut(f"({error})") from error

    def _within(self, seconds: float, call: Callable[[], Answer]) -> Answer:
        """What a call gives, in a thread of its own, which is left behind if that takes longer: a
        server that sends a byte now and then runs into no timeout of its connection."""
        answers: SimpleQueue[tuple[Answer | None, BaseException | None]] = SimpleQueue()

        def answer() -> None:
            try:
                answers.put((call(), None))
            except BaseException as error:
                answers.put((None, error))

        threading.Thread(target=answer, daemon=True).start()
        try:
            given, error = answers.get(timeout=max(seconds, 0))
        except Empty:
            raise self._cut(f"here: it brings less than {SLOWEST} bytes a second") from None
        if error is not None:
            raise error
        return given

    def _cut(self, how: str) -> FileNotFoundError:
        goes_on = "" if self.size is None else ", it goes on from there"
        return FileNotFoundError(f"{self.url}: the connection was cut {how}: try again{goes_on}")

    def _too_large(self, size: int) -> CdlError:
        return CdlError(
            f"{self.url} has {size} bytes or more, at most {self.largest} are fetched: "
            f"{self.otherwise}"
        )

    def _unreachable(self, error: Exception) -> FileNotFoundError:
        reason = getattr(error, "reason", None) or error
        code = f"{error.code} " if isinstance(error, HTTPError) else ""
        return FileNotFoundError(
            f"{self.url} cannot be downloaded ({code}{reason}): {self.otherwise}"
        )


@contextmanager
def _locked(file: int) -> Iterator[None]:
    """Hold a lock, which ends with its process at the latest.

    Its file stays: were it removed, one process could wait for it while another makes a new one.
    """
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _starts_at(response: HTTPResponse, start: int) -> bool:
    return re.match(rf"bytes {start}-", response.headers.get("Content-Range") or "") is not None


class _SafeRedirects(HTTPRedirectHandler):
    """Follows only to https; a server of this machine may lead to others of this machine."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if urlsplit(newurl).scheme != "https" and not (
            _is_local(req.full_url) and _is_local(newurl)
        ):
            raise CdlError(f"{req.full_url} leads to {newurl}, which is not https: not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
