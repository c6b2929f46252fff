"""Whatever a command writes, a full disk is one line, and no file is half there."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.commands import in_checkout, run
from tests.test_files import largest_file

CODEC = ["--codec", "tiny-bmshj2018-hyperprior", "--quality", "2"]
LARGEST = 100  # bytes
TRAIN = ["--lmbda", 0.01, "--iterations", 1, "--batch-size", 1, "--patch-size", 64]
WRITERS = {
    "pictures": ["data", "synthesize", "--task", "classification", "--count", 1],
    "a bitstream": ["codec", "compress", "IMAGES", *CODEC],
    "a store": ["data", "encode", "--images", "IMAGES", *CODEC, "--workers", 0],
    "a checkpoint": ["codec", "train", "IMAGES", *CODEC, *TRAIN],
    "a page": ["quickstart"],
}


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.effect_noise((96, 80), 60).convert("RGB").save(folder / "a.png")
    return folder


@pytest.mark.parametrize("what", WRITERS)
def test_a_full_disk_is_one_line_and_leaves_no_half_file(what, images, tmp_path):
    words = [images if word == "IMAGES" else word for word in WRITERS[what]]
    output = tmp_path / "output"
    with largest_file(LARGEST):
        status, printed, errors = run(*words, "--output", output)
    command = " ".join(word for word in words[:2] if str(word).isalpha())
    assert status == 1 and errors.count(f"cdl {command}: ") == 1, errors
    assert errors.count("File too large: '") == 1 and "Traceback" not in errors
    assert " 1 images" not in f" {printed}"  # that were not written
    written = [p for p in output.rglob("*") if p.is_file()] if output.is_dir() else []
    assert all(path.stat().st_size < LARGEST for path in [*written, *tmp_path.glob(".*")])


@pytest.mark.parametrize("largest", [LARGEST, 60_000])
def test_a_full_disk_ends_a_training_in_one_line(images, tmp_path, largest):
    """Also where Detectron2 writes: its log, the config, metrics."""
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    classes = tmp_path / "classes"
    for name in ("a", "b"):
        (classes / name).mkdir(parents=True)
        (classes / name / "0.png").symlink_to(images / "a.png")
    options = ["MODEL.CLASSIFIER.NUM_CLASSES", 2, "SOLVER.MAX_ITER", 1, "SOLVER.STEPS", "()"]
    options += ["MODEL.LATENT_RESNET.WIDTH", 0.0625, "OUTPUT_DIR", tmp_path / "output"]
    config = ["--config-file", "classification/small/pixel_resnet_small.yaml"]
    known = [word for name in ("train", "val") for word in ("--register-classes", name, classes)]
    with largest_file(largest):
        status, _, errors = run("train", *config, *known, *options)
    assert status == 1 and errors.count("cdl train: ") == 1, errors
    assert str(tmp_path / "output") in errors.splitlines()[-1] and "Traceback" not in errors
    assert not list((tmp_path / "output").glob("*.pth"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_behind_the_standard_output_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cdl_d2.cli.main", "zoo", "list", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            **in_checkout(),
        )
    assert done.returncode == 1
    assert done.stderr.startswith("cdl zoo list: ") and len(done.stderr.splitlines()) == 1
