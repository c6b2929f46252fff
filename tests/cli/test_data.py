import os
import subprocess
import sys

import pytest

from cdl_d2.data import LatentStore
from tests.commands import in_checkout, output_of, refused, run
from tests.data.store.kill_encoding import content_of

CODEC = ["--codec", "tiny-bmshj2018-hyperprior", "--quality", "2"]
ENCODE = ["data", "encode", *CODEC, "--device", "cpu", "--workers", 0]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    draw = ["data", "draw", "--task", "segmentation", "--count", 3, "--size", 40, 72]
    output_of(*draw, "--output", tmp_path / "drawn")
    (tmp_path / "drawn" / "images").rename(folder)
    return folder


def test_equal_arguments_draw_equal_files(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        words = ["--count", 2, "--size", 64, 64, "--seed", seed, "--output", tmp_path / name]
        output_of("data", "draw", "--task", "detection", *words)
    first, same, other = (content_of(tmp_path / name / "images") for name in "abc")
    assert first == same != other
    assert refused("data", "draw", "--task", "detection", "--count", 1, "--output", tmp_path / "a")


def test_parts_make_a_store_together(photos, tmp_path, codec, monkeypatch):
    words = [*ENCODE, "--images", photos, "--output", tmp_path / "store", "--shard-size", 2]
    output_of(*words, "--shard", "0/2")
    assert not (tmp_path / "store" / "manifest.json").exists()
    monkeypatch.setitem(os.environ, "RANK", "1")
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    output_of(*words)
    LatentStore(tmp_path / "store", codec).verify()


def test_ray_writes_the_same_store(photos, tmp_path):
    pytest.importorskip("ray.data", reason="Ray is not installed")
    (photos / "more.png").write_text("no image")
    words = [*ENCODE[:-2], "--images", photos, "--shard-size", 3, "--short-edges", 40]
    assert run(*words, "--workers", 0, "--output", tmp_path / "alone")[0] == 1
    command = [sys.executable, "-m", "cdl_d2.cli.main", *words, "--workers", 1, "--ray"]
    command += ["--output", tmp_path / "ray"]  # in a process of its own, which ends Ray's too
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **in_checkout())
    assert done.returncode == 1 and "more.png" in done.stderr
    assert content_of(tmp_path / "ray") == content_of(tmp_path / "alone")


def test_an_image_that_fails_is_named(photos, tmp_path):
    (photos / "bad.png").write_text("no image")
    status, _, errors = run(*ENCODE, "--images", photos, "--output", tmp_path / "store")
    assert status == 1 and "bad.png" in errors


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--images", "nowhere"], "nowhere"),
        (["--images", ".", "--annotations", "nowhere.json"], "nowhere.json"),
        (["--images", "photos", "--shard", "2/2"], "2/2"),
        (["--images", "photos", "--shard", "half"], "half"),
        (["--images", "photos", "--short-edges", "-5"], "-5"),
        (["--images", "photos", "--output", "setup.py"], "setup.py"),
        (["--images", "photos", "--form", "boxes"], "boxes"),
        (["--images", "photos", "--dataset", "coco"], "--dataset"),
        ([], "--images"),
    ],
)
def test_options_that_cannot_be_used_are_one_line(arguments, named, photos, tmp_path):
    arguments = [photos if argument == "photos" else argument for argument in arguments]
    output = [] if "--output" in arguments else ["--output", tmp_path / "store"]
    assert named in refused(*ENCODE, *output, *arguments)
    assert not (tmp_path / "store").exists()
