"""cdl quickstart in miniature, with each backend that is there."""

import importlib.util
import json
import os
import re
import signal
import sys
import time

import pytest

from cdl_d2.bench.quickstart import commands
from cdl_d2.model_zoo.backends import default_backend, get_backend
from tests import warm
from tests.commands import forked, output_of, refused

QUICKSTART = ["quickstart", "--train"]
MINIATURE = ["--iterations", "1", "--images", "2", "1", "--size", "64"]
BACKENDS = [
    "torchvision",
    pytest.param(
        "detectron2",
        marks=pytest.mark.skipif(
            not importlib.util.find_spec("detectron2"), reason="Detectron2 is not installed"
        ),
    ),
]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_quick_start_trains_measures_and_reports(tmp_path, monkeypatch, server, backend):
    monkeypatch.setattr(commands, "COMMAND", warm.command(server, "cdl"))
    out = tmp_path / "quickstart"
    monkeypatch.chdir(tmp_path)  # it needs no checkout around it
    printed = output_of(*QUICKSTART, "--backend", backend, *MINIATURE, "--output", "quickstart")
    rows = re.findall(r"^(\S.*?)  +([\d.]+ .*)$", printed, re.MULTILINE)
    assert len(rows) == 5
    page = (out / "report.html").read_text()
    assert page.count("<img") == 1 + 3  # losses; ground truth and two predictions of an image
    assert page.count("<tr>") == 6
    assert json.loads((out / "settings.json").read_text())["backend"] == backend
    if backend != "torchvision":
        return  # the rest does not depend on it

    trained = (out / "bridge" / "model_final.pth").stat().st_mtime_ns
    (out / "report.html").unlink()
    output_of(*QUICKSTART, "--backend", backend, *MINIATURE, "--output", out)
    assert (out / "report.html").exists()
    assert (out / "bridge" / "model_final.pth").stat().st_mtime_ns == trained

    refused(*QUICKSTART, "--backend", backend, *MINIATURE, "--seed", 1, "--output", out)

    (out / "finetuned" / "results.json").unlink()
    for name in ("checkpoint.pth", "last_checkpoint"):
        (out / "finetuned" / name).write_bytes(b"broken")
    said = refused(*QUICKSTART, "--backend", backend, *MINIATURE, "--output", out)
    assert str(out / "finetuned" / "command.log") in said


def test_stopped_it_leaves_no_process_behind(tmp_path, monkeypatch):
    mark = str(tmp_path / "running-")
    lasting = f"import os, time; os.mkdir({mark!r} + str(os.getpid())); time.sleep(60)"
    monkeypatch.setattr(commands, "COMMAND", (sys.executable, "-S", "-c", lasting))
    words = [*QUICKSTART, "--backend", "torchvision", *MINIATURE, "--output", tmp_path / "out"]
    child = forked(*words, errors=tmp_path / "errors")
    while not (marks := list(tmp_path.glob("running-*"))):
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        time.sleep(0.01)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int(marks[0].name.removeprefix("running-")), 0)


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    assert str(tmp_path) in refused(*QUICKSTART, *MINIATURE, "--output", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_the_default_backend_is_detectron2_where_it_is_installed():
    installed = importlib.util.find_spec("detectron2")
    assert default_backend() == ("detectron2" if installed else "torchvision")
    with pytest.raises(ValueError, match="'keras'"):
        get_backend("keras")
