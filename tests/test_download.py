import hashlib
import multiprocessing
import threading
import time

import pytest

from cdl_d2.download import download_file
from cdl_d2.errors import CdlError
from tests.test_files import largest_file
from tests.web import file_answer, redirect, serving

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SIZES = [len(CONTENT), None]


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "weights" / "x.pth"


def fetch(server, path, size=None, sha256=SHA256, **limits):
    download_file(f"{server.address}/files/x.pth", path, sha256, size, **limits)
    return path.read_bytes()


def files_in(path):
    return [file.name for file in path.parent.iterdir()]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("digits", [8, 64])
def test_a_file_is_downloaded_once(path, size, digits):
    with serving(file_answer(CONTENT)) as server:
        for _ in range(2):
            assert fetch(server, path, size, SHA256[:digits]) == CONTENT
        assert server.requests == ["GET /files/x.pth HTTP/1.1"]
    assert files_in(path) == [path.name]
    assert path.stat().st_mode & 0o444 == 0o444  # a cache may be shared


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("content", [CONTENT[::-1], CONTENT + b"x", CONTENT[:-1], b""])
def test_other_content_leaves_no_file(path, size, content):
    with serving(file_answer(content)) as server, pytest.raises(CdlError, match=server.address):
        fetch(server, path, size)
    assert files_in(path) == []


def test_a_corrupted_file_in_place_is_an_error_without_a_network(path):
    path.parent.mkdir()
    path.write_bytes(CONTENT[::-1])
    with pytest.raises(CdlError, match=SHA256):
        download_file("http://127.0.0.1:9/x.pth", path, SHA256)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 50_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        redirect("/files/x.pth"),
        redirect("http://[/x.pth"),
    ],
)
def test_a_broken_answer_is_one_line_and_leaves_no_file(path, answer):
    expected = pytest.raises((CdlError, FileNotFoundError))
    with serving(answer) as server, expected as caught:
        fetch(server, path, max_bytes=20_000)
    assert server.address in str(caught.value) and "\n" not in str(caught.value)
    assert files_in(path) == []


@pytest.mark.parametrize(
    ("answer", "drip"),
    [
        (b"", b""),
        (b"HTTP/1.1 200 OK\r\n\r\nx", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
        (b"HTTP/1.1 200 OK\r\n", b"X"),
        (b"", b"H"),
    ],
)
def test_a_server_that_does_not_finish_is_given_up(path, answer, drip):
    expected = pytest.raises(FileNotFoundError, match="do this instead")
    with serving(answer, drip=drip, stall=True) as server, expected:
        fetch(server, path, max_seconds=0.2, advice="do this instead")
    assert files_in(path) == []


def test_a_silent_server_is_given_up(path, monkeypatch):
    monkeypatch.setattr("cdl_d2.download.SOCKET_TIMEOUT_S", 0.1)
    with serving(b"", stall=True) as server, pytest.raises(FileNotFoundError, match="timed out"):
        fetch(server, path)


@pytest.mark.parametrize("size", SIZES)
def test_no_more_bytes_are_read_than_expected(path, size):
    endless = serving(b"HTTP/1.1 200 OK\r\n\r\n", drip=b"x" * 1000, flood=True)
    with endless as server, pytest.raises(CdlError, match=str(size or 100_000)):
        fetch(server, path, size, max_bytes=100_000)
    assert files_in(path) == []


@pytest.mark.parametrize(
    "url", ["http://example.org/x", "ftp://localhost/x", "file:///etc/passwd", "x", "https://", ""]
)
def test_only_https_is_downloaded(path, url):
    with pytest.raises(CdlError, match="https"):
        download_file(url, path, SHA256)
    assert not path.parent.exists()


@pytest.mark.parametrize("target", ["http://example.org/x", "ftp://127.0.0.1/x", "//example.org/x"])
def test_a_redirect_to_anything_but_https_is_not_followed(path, target):
    with serving(redirect(target)) as server, pytest.raises(CdlError, match="redirects"):
        fetch(server, path)
    assert len(server.requests) == 1


def test_a_redirect_on_this_machine_is_followed(path):
    with serving(file_answer(CONTENT)) as server, serving(redirect(server.address)) as first:
        assert fetch(first, path) == CONTENT


def start_process(server, path):
    process = multiprocessing.get_context("fork").Process(target=fetch, args=(server, path))
    process.start()
    return process


def test_processes_at_once_do_not_disturb_each_other(path):
    with serving(file_answer(CONTENT), barrier=threading.Barrier(2)) as server:
        processes = [start_process(server, path) for _ in range(2)]
        for process in processes:
            process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert path.read_bytes() == CONTENT and files_in(path) == [path.name]


def test_a_killed_process_leaves_nothing_that_matters(path):
    with serving(file_answer(CONTENT)[:1000], stall=True) as server:
        process = start_process(server, path)
        while not server.requests:
            time.sleep(0.01)
        process.kill()
        process.join()
        assert not path.exists()
        server.content, server.stall = file_answer(CONTENT), False
        assert fetch(server, path) == CONTENT
    assert files_in(path) == [path.name]


def test_a_full_disk_is_an_error_of_the_file(path):
    expected = pytest.raises(OSError, match=path.name)
    with serving(file_answer(CONTENT)) as server, largest_file(2000), expected as caught:
        fetch(server, path)
    assert not isinstance(caught.value, FileNotFoundError)
