import json
import math
import multiprocessing
import os
import resource
import time
from contextlib import contextmanager

import pytest

from cdl_d2.files import SUFFIX, new_folder, read_json_lines, write_atomically, write_json


@contextmanager
def largest_file(size):
    """Limit the size of files, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def run_in_process(function, *arguments):
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "file.txt"
    with write_atomically(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"


def test_a_failure_keeps_the_old_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), write_atomically(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file.txt"]


def test_a_file_has_the_usual_permissions(tmp_path):
    with write_atomically(tmp_path / "file.txt") as temporary:
        temporary.write_text("private")
        temporary.chmod(0o600)
    (tmp_path / "plain.txt").write_text("plain")
    modes = {p.stat().st_mode for p in tmp_path.iterdir()}
    assert len(modes) == 1


def test_a_full_disk_is_an_error_of_the_file_and_keeps_the_old_one(tmp_path):
    path = tmp_path / "file.json"
    path.write_text("old")
    with largest_file(100), pytest.raises(OSError, match=r"too large.*file\.json"):
        write_json(path, "x" * 1000)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file.json"]


def test_two_writers_of_one_file_never_share_a_temporary_one(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 7)  # as in two containers with one disk
    path = tmp_path / "file.txt"
    with write_atomically(path) as first, write_atomically(path) as second:
        first.write_text("first")
        second.write_text("second")
        assert first != second and first.read_text() == "first"
    assert path.read_text() == "first" and os.listdir(tmp_path) == ["file.txt"]


def _killed(path):
    with new_folder(path.with_name("folder")) as folder, write_atomically(path) as temporary:
        (folder / "part").write_text("half")
        temporary.write_text("half")
        os._exit(9)


def _write(path):
    write_json(path, "whole")


def test_files_of_a_killed_process_are_removed_by_the_next(tmp_path):
    assert run_in_process(_killed, tmp_path / "a.json") == 9
    assert len(os.listdir(tmp_path)) == 2
    assert run_in_process(_write, tmp_path / "b.json") == 0
    assert os.listdir(tmp_path) == ["b.json"]


def test_files_of_a_running_process_are_not_removed(tmp_path):
    with new_folder(tmp_path / "folder") as folder, write_atomically(tmp_path / "a") as temporary:
        assert run_in_process(_write, tmp_path / "b.json") == 0
        assert temporary.exists() and folder.exists()
    assert sorted(os.listdir(tmp_path)) == ["a", "b.json", "folder"]


@pytest.mark.parametrize("hours", [1, 100])
def test_a_temporary_file_of_another_machine_is_removed_once_it_is_old(tmp_path, hours):
    # its locks may be invisible here
    leftover = tmp_path / f".a.json.0123456789abcdef.ffffffff{SUFFIX}"
    leftover.touch()
    os.utime(leftover, (time.time() - 3600 * hours,) * 2)
    write_json(tmp_path / "b.json", 1)
    assert leftover.exists() == (hours == 1)


def test_a_pipe_with_the_name_of_a_temporary_file_does_not_block(tmp_path):
    pipe = tmp_path / f".x{SUFFIX}"
    os.mkfifo(pipe)
    os.utime(pipe, (0, 0))
    write_json(tmp_path / "a.json", 1)
    assert pipe.exists()


def test_nan_and_infinity_become_null_at_every_depth(tmp_path):
    write_json(tmp_path / "a.json", {"a": [math.nan, (math.inf, 1.5)], "b": {"c": -math.inf}})
    content = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    assert content == {"a": [None, [None, 1.5]], "b": {"c": None}}


def test_an_invalid_name_is_an_error_of_the_file(tmp_path):
    path = tmp_path / ("x" * 300)
    with pytest.raises(OSError) as caught:
        write_json(path, 1)
    assert caught.value.filename == str(path) and not os.listdir(tmp_path)


def test_a_file_of_the_longest_name_can_be_written(tmp_path):
    path = tmp_path / ("x" * 250 + ".json")
    write_json(path, 1)
    assert path.exists()


def test_lines_after_an_incomplete_one_are_read(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 1}\n{"iteration": 2, "lo\n{"iteration": 3}\n{"iter')
    assert [line["iteration"] for line in read_json_lines(path)] == [1, 3]
