"""tools/quickstart.py in miniature, with each engine that is there."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cdl_d2.bench.quickstart.engines import choose_engine

ROOT = Path(__file__).parents[2]
MINIATURE = ["--iterations", "4", "--images", "4", "3", "--size", "64"]
ENGINES = [
    "torchvision",
    pytest.param(
        "detectron2",
        marks=pytest.mark.skipif(
            not importlib.util.find_spec("detectron2"), reason="Detectron2 is not installed"
        ),
    ),
]


def run(*arguments, check=True):
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "quickstart.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.mark.parametrize("engine", ENGINES)
def test_a_quick_start_trains_measures_and_reports(tmp_path, engine):
    out = tmp_path / "quickstart"
    done = run("--engine", engine, *MINIATURE, "--output", out)
    assert f"training with {engine}" in done.stdout
    rows = re.findall(r"^(\S.*?)  +([\d.]+ .*)$", done.stdout, re.MULTILINE)
    assert len(rows) == 4
    page = (out / "report.html").read_text()
    assert page.count("<img") == 4  # losses and three images
    assert page.count("<tr>") == 5
    assert len(list(out.glob("*.png"))) == 4
    assert json.loads((out / "settings.json").read_text())["engine"] == engine

    trained = (out / "latent_transfer" / "model_final.pth").stat().st_mtime_ns
    (out / "report.html").unlink()
    run("--engine", engine, *MINIATURE, "--output", out)
    assert (out / "report.html").exists()
    assert (out / "latent_transfer" / "model_final.pth").stat().st_mtime_ns == trained

    other = run("--engine", engine, *MINIATURE, "--seed", 1, "--output", out, check=False)
    assert other.returncode == 1
    assert other.stderr.startswith("quickstart: ") and len(other.stderr.splitlines()) == 1


def test_a_run_that_fails_says_why(tmp_path):
    out = tmp_path / "quickstart"
    run("--engine", "torchvision", *MINIATURE, "--output", out)
    (out / "latent" / "results.json").unlink()
    (out / "latent" / "checkpoint.pth").write_bytes(b"broken")
    done = run("--engine", "torchvision", *MINIATURE, "--output", out, check=False)
    assert done.returncode == 1
    assert "the run latent failed" in done.stderr
    assert "checkpoint.pth cannot be read" in done.stderr


def test_stopped_it_leaves_no_process_behind(tmp_path):
    words = ["--engine", "torchvision", *MINIATURE, "--iterations", "500", "--output", tmp_path]
    tool = [sys.executable, str(ROOT / "tools" / "quickstart.py"), *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(tool, stderr=subprocess.DEVNULL, env=environment, cwd=ROOT)
    while not (tmp_path / "latent" / "command.log").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    assert process.wait(30) != 0
    assert subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True).returncode == 1


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    done = run(*MINIATURE, "--output", tmp_path, check=False)
    assert done.returncode == 1
    assert "is not an empty folder" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_the_engine_is_detectron2_where_it_is_installed():
    found = importlib.util.find_spec("detectron2")
    assert choose_engine("auto").name == ("detectron2" if found else "torchvision")
    with pytest.raises(ValueError, match="'keras'"):
        choose_engine("keras")
