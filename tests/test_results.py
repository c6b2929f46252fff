import json
import subprocess
import sys
from pathlib import Path

import pytest

from cdl_d2.results import read_point

ROOT = Path(__file__).parent.parent


@pytest.fixture
def folders(tmp_path):
    for name, bpp, top1 in (("a", 0.4, 50.0), ("b", 0.6, 70.0)):
        (tmp_path / name).mkdir()
        content = {"rate": {"bpp": bpp, "psnr": None}, "classification": {"top1": top1}}
        (tmp_path / name / "results.json").write_text(json.dumps(content))
    return [tmp_path / "a", tmp_path / "b"]


def test_seeds_are_averaged_and_curves_named(folders):
    point = read_point("joint:x 1", folders, ["rate/bpp", "classification/top1"])
    assert (point.curve, point.name, point.seeds) == ("joint", "x 1", 2)
    assert point.values == {"rate/bpp": 0.5, "classification/top1": 60.0}


def test_what_is_missing_is_named(folders, tmp_path):
    with pytest.raises(FileNotFoundError, match="no results"):
        read_point("a", [tmp_path], ["rate/bpp"])
    with pytest.raises(ValueError, match="point 'a' has no folder"):
        read_point("a", [], ["rate/bpp"])
    with pytest.raises(ValueError, match=r"no 'rate/psnr'; it has rate/bpp"):
        read_point("a", folders, ["rate/psnr"])


def test_the_command_prints_a_table_and_draws(folders, tmp_path):
    points = ["--point", "a", folders[0], "--point", "joint:b", folders[1]]
    plot = ["--plot", "rate/bpp", "classification/top1", "--output", tmp_path / "plot.png"]
    words = [ROOT / "tools" / "compare_runs.py", "--keys", "rate/bpp", *points, *plot]
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    assert "| joint: b | 1 | 0.600 | 70.000 |" in done.stdout
    assert (tmp_path / "plot.png").stat().st_size > 1000
