"""The quick start without training; tests/test_installed.py runs all of it."""

from tests.commands import refused


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "report.html").write_text("of an earlier look")
    (tmp_path / "mine.txt").write_text("mine")
    assert "mine.txt" in refused("quickstart", "--output", tmp_path)
