import os

import pytest

from cdl_d2.files import write_atomically


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "file.txt"
    with write_atomically(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), write_atomically(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file.txt"]


def test_others_may_read_it(tmp_path):
    with write_atomically(tmp_path / "file.txt") as temporary:
        temporary.write_text("private")
        temporary.chmod(0o600)
    (tmp_path / "plain.txt").write_text("plain")
    modes = {p.stat().st_mode for p in tmp_path.iterdir()}
    assert len(modes) == 1
