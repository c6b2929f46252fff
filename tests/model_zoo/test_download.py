import multiprocessing
import socket
import threading
import time

import pytest

from cdl_d2 import model_zoo
from cdl_d2.errors import CdlError
from cdl_d2.model_zoo.download import download
from tests.model_zoo.conftest import CONTENT, SHA256, make_card, put


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights" / f"{SHA256}.safetensors"


def left_in(path):
    return sorted(each.name for each in path.parent.iterdir() if each.suffix != ".lock")


def fetch(served, path):
    download(served.url, len(CONTENT), SHA256, path)
    return path.read_bytes()


def test_a_file_arrives_once(served, path):
    assert fetch(served, path) == fetch(served, path) == CONTENT
    assert served.asked == [None]
    assert left_in(path) == [path.name]


@pytest.mark.parametrize("content", [CONTENT[::-1], b"x" * len(CONTENT)])
def test_another_file_is_never_put_in_place(served, path, content):
    served.content = content
    with pytest.raises(CdlError, match=f"has SHA-256 [0-9a-f]{{64}}, {SHA256} is expected"):
        fetch(served, path)
    assert left_in(path) == []


def test_a_cut_download_goes_on_where_it_ended(served, path):
    served.cut_after = 1000
    with pytest.raises(FileNotFoundError, match=rf"cut after 1000 of {len(CONTENT)} bytes"):
        fetch(served, path)
    assert left_in(path) == [f"{SHA256}.part"]
    served.cut_after = None
    assert fetch(served, path) == CONTENT
    assert served.asked == [None, "bytes=1000-"]
    assert left_in(path) == [path.name]


def test_a_server_that_knows_no_ranges_starts_over(served, path):
    path.parent.mkdir()
    path.with_name(f"{SHA256}.part").write_bytes(CONTENT[:1000])
    served.ranges = False
    assert fetch(served, path) == CONTENT
    assert served.asked == ["bytes=1000-"]


def test_a_wrong_beginning_is_not_kept(served, path):
    path.parent.mkdir()
    path.with_name(f"{SHA256}.part").write_bytes(b"x" * 1000)
    with pytest.raises(CdlError, match="SHA-256"):
        fetch(served, path)
    assert fetch(served, path) == CONTENT


@pytest.mark.parametrize("size", [len(CONTENT), len(CONTENT) + 1])
def test_a_part_of_all_bytes_or_more_is_checked_too(served, path, size):
    path.parent.mkdir()
    path.with_name(f"{SHA256}.part").write_bytes((CONTENT + b"x")[:size])
    assert fetch(served, path) == CONTENT
    assert served.asked == ([] if size == len(CONTENT) else [None])


@pytest.mark.parametrize("content", [CONTENT + b"x", CONTENT[:-1]])
def test_a_file_of_another_size_is_not_fetched(served, path, content):
    served.content = content
    expected = f"has {len(content)} bytes, {len(CONTENT)} are expected"
    with pytest.raises(CdlError, match=expected):
        fetch(served, path)
    assert left_in(path) == []


def test_no_more_bytes_are_written_than_expected(served, path):
    served.content, served.announced = CONTENT + b"x" * 10**6, -1  # a size that nobody says
    assert fetch(served, path) == CONTENT


def test_a_file_that_became_shorter_than_its_part_is_not_used(served, path):
    path.parent.mkdir()
    path.with_name(f"{SHA256}.part").write_bytes(CONTENT[:1000])
    served.content = CONTENT[:500]
    with pytest.raises(CdlError, match="has 500 bytes"):
        fetch(served, path)
    assert served.asked == ["bytes=1000-", None]


def test_threads_at_once_fetch_one_file_once(served, path):
    served.hold = threading.Event()
    threads = [threading.Thread(target=fetch, args=(served, path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    served.hold.set()
    for thread in threads:
        thread.join(10)
    assert path.read_bytes() == CONTENT
    assert served.asked == [None]


def test_processes_at_once_fetch_one_file_once(served, path):
    served.hold = threading.Event()
    arguments = served.url, len(CONTENT), SHA256, path
    processes = [
        multiprocessing.get_context("fork").Process(target=download, args=arguments)
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    served.hold.set()
    for process in processes:
        process.join(10)
    assert [process.exitcode for process in processes] == [0, 0]
    assert path.read_bytes() == CONTENT
    assert served.asked == [None]


def test_a_lock_of_a_process_that_was_killed_holds_nobody_up(served, path):
    served.hold = threading.Event()
    process = multiprocessing.get_context("fork").Process(target=fetch, args=(served, path))
    process.start()
    while not served.asked:
        time.sleep(0.01)
    process.kill()
    process.join()
    served.hold.set()
    assert fetch(served, path) == CONTENT


def test_a_mirror_serves_the_file_of_the_same_name(served, path, monkeypatch):
    monkeypatch.setenv("CDL_MIRROR", served.url.rsplit("/", 2)[0] + "/mirror/")
    download("https://nowhere.invalid/a/b.safetensors?x=1", len(CONTENT), SHA256, path)
    assert served.paths == ["/mirror/b.safetensors"]
    path.unlink()
    served.content = CONTENT[::-1]
    with pytest.raises(CdlError, match="SHA-256"):
        download("https://nowhere.invalid/b.safetensors", len(CONTENT), SHA256, path)


@pytest.mark.parametrize(
    "url", ["http://example.org/x", "ftp://localhost/x", "file:///etc/passwd", "x", "https://", ""]
)
def test_only_https_is_fetched(path, url):
    with pytest.raises(CdlError, match="only https"):
        download(url, 1, SHA256, path)
    assert not path.parent.exists()


@pytest.mark.parametrize("target", ["http://example.org/x", "ftp://127.0.0.1/x"])
def test_a_redirect_to_anything_but_https_is_not_followed(served, path, target):
    served.leads_to = target
    with pytest.raises(CdlError, match=f"leads to {target}, which is not https"):
        fetch(served, path)


def test_without_a_network_the_error_says_what_to_do(home):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/x.safetensors"
        put(home, make_card(url=url))
        with pytest.raises(FileNotFoundError) as refused:
            model_zoo.weights_file("nuclei-bridge")
    text = str(refused.value)
    assert url in text and "refused" in text and "CDL_MIRROR" in text
    assert "\n" not in text


def test_an_answer_that_is_an_error_is_one_line(served, path):
    served.status = 404
    with pytest.raises(FileNotFoundError, match=r"cannot be downloaded \(404 Not Found\)"):
        fetch(served, path)


def test_a_folder_that_cannot_be_made_is_one_line(served, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot be written to \(Not a directory\): set CDL_HOME"):
        fetch(served, tmp_path / "file" / "weights" / "x.safetensors")
