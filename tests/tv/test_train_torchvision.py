"""`cdl train-torchvision` as a user runs it."""

import json
import os
import random
import signal
import socket
import time
from pathlib import Path

import pytest
import torch

from cdl_d2 import Predictor
from cdl_d2.tv.options import TrainingOptions
from tests.commands import forked, output_of, refused
from tests.conftest import make_coco_dataset

SMALL = [
    *("--model", "small", "--device", "cpu"),
    *("--short-edges", "48", "64", "--short-edge-val", "64"),
]
CODEC = ["--codec", "tiny-bmshj2018-hyperprior", "--quality", "2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_coco_dataset(tmp_path_factory.mktemp("data"), sizes=[(96, 128), (128, 96)] * 2)


@pytest.fixture(scope="module")
def teacher(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    run(data, "--domain", "image", "--iterations", 1, "--output", folder)
    return folder / "model_final.pth"


def words(data, *arguments):
    """Of `cdl`."""
    return ["train-torchvision", *SMALL, "--train", *data, "--val", *data, *arguments]


def run(data, *arguments):
    output_of(*words(data, *arguments))


def test_a_killed_training_resumes_to_the_same_weights(data, teacher, tmp_path):
    arguments = [*CODEC, "--teacher", teacher, "--iterations", 4, "--checkpoint-period", 1]
    run(data, *arguments, "--output", tmp_path / "whole")
    cut = tmp_path / "cut"
    child = forked(*words(data, *arguments, "--output", cut), errors=tmp_path / "errors")
    while not (cut / "checkpoint.pth").exists():
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.3))  # any step
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not (cut / "results.json").exists()
    assert "checkpoint" in refused(*words(data, *arguments, "--output", cut))
    run(data, *arguments, "--resume", "--output", cut)
    first, second = (
        torch.load(folder / "model_final.pth", weights_only=True)["model"]
        for folder in (tmp_path / "whole", cut)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    results = json.loads((cut / "results.json").read_text())
    assert results.keys() == {"bbox", "segm", "rate"}
    assert results == json.loads((tmp_path / "whole" / "results.json").read_text())
    lines = [json.loads(line) for line in (cut / "metrics.json").read_text().splitlines()]
    assert "loss_transfer_features" in lines[0] and "bbox/AP" in lines[-1]
    other = words(data, *arguments, "--resume", "--lambda", 64, "--output", cut)
    assert "lambda_ 1.0" in refused(*other)


def test_the_standard_schedule_decays_where_the_papers_does():
    schedule = TrainingOptions().schedule("standard")
    decays = [i for i in range(1000, 270_000) if schedule.rate(i) < schedule.rate(i - 1)]
    assert decays == [210_000, 250_000] and schedule.rate(260_000) == pytest.approx(2e-4)
    half = TrainingOptions(iterations=135_000).schedule("standard")
    assert half.rate(104_999) == 10 * half.rate(105_000)


def test_a_teacher_is_evaluated_on_decoded_images(data, teacher, tmp_path):
    arguments = ["--eval-only", teacher, "--domain", "reconstruction", *CODEC]
    run(data, *arguments, "--output", tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["rate"]["bpp"] > 0


def test_a_detector_is_evaluated_at_the_sizes_that_it_was_trained_for(data, teacher, tmp_path):
    small = words(data, "--eval-only", teacher, "--output", tmp_path)
    plain = [word for word in small if word not in SMALL]
    output_of(*plain, "--device", "cpu", "--domain", "image")
    theirs = json.loads((teacher.parent / "results.json").read_text())
    assert json.loads((tmp_path / "results.json").read_text()) == theirs
    coded = words(data, "--eval-only", teacher, "--output", tmp_path, *CODEC)
    assert "not tiny-bmshj2018" in refused(*coded)


def test_a_detector_of_several_qualities_is_evaluated_at_each(data, tmp_path):
    codec, several = CODEC[:2], ["--qualities", "0", "2"]
    run(data, *CODEC, *several, "--iterations", "1", "--output", tmp_path / "trained")
    rates = []
    for quality in ("0", "2"):
        out = tmp_path / quality
        trained = tmp_path / "trained" / "model_final.pth"
        run(data, "--eval-only", trained, *codec, "--quality", quality, "--output", out)
        rates.append(json.loads((out / "results.json").read_text())["rate"]["bpp"])
    assert rates[0] < rates[1]
    other = words(data, "--eval-only", trained, *codec, "--quality", "1", "--output", out)
    assert "of quality 1" in refused(*other)
    stored = words(data, *CODEC, *several, "--store-train", "store", "--output", tmp_path / "none")
    assert "one quality" in refused(*stored)


def test_processes_share_a_training(data, tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2}  # as by torchrun
    command, children = words(data, *CODEC, "--iterations", 2, "--output", tmp_path / "out"), []
    for rank in range(2):
        for name, value in {**told, "RANK": rank, "LOCAL_RANK": rank}.items():
            monkeypatch.setenv(name, str(value))
        children.append(forked(*command, errors=tmp_path / f"errors{rank}"))
    for rank, child in enumerate(children):
        assert os.waitpid(child, 0)[1] == 0, (tmp_path / f"errors{rank}").read_text()
    assert (tmp_path / "out" / "results.json").exists()


@pytest.fixture
def boxes(data, tmp_path):
    """The data set without its masks."""
    content = json.loads(Path(data[0]).read_text())
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(content))
    return path, data[1]


def test_boxes_alone_train_and_evaluate_a_detector(boxes, teacher, tmp_path):
    arguments = [*CODEC, "--boxes-only", "--teacher", teacher, "--iterations", 1]
    run(boxes, *arguments, "--output", tmp_path / "out")
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results.keys() == {"bbox", "rate"}
    losses = json.loads((tmp_path / "out/metrics.json").read_text().splitlines()[0])
    assert "loss_transfer_class" in losses and not any("mask" in name for name in losses)
    found = Predictor.load(tmp_path / "out")(boxes[1] / "000.png")
    assert found.masks is None and "segmentation" not in str(found.to_coco())


def test_masks_that_are_missing_are_named_before_training(boxes, teacher, tmp_path):
    words_ = words(boxes, *CODEC, "--iterations", 2, "--output", tmp_path / "out")
    assert "mask" in refused(*words_)
    output_of(*words(boxes, "--eval-only", teacher, "--output", tmp_path))
    assert json.loads((tmp_path / "results.json").read_text()).keys() == {"bbox"}


def test_a_teacher_without_masks_cannot_teach_masks(boxes, data, tmp_path):
    plain = ["--domain", "image", "--boxes-only", "--iterations", 1]
    run(boxes, *plain, "--output", tmp_path / "teacher")
    student = [*CODEC, "--teacher", tmp_path / "teacher/model_final.pth"]
    last = refused(*words(data, *student, "--iterations", 1, "--output", tmp_path / "student"))
    assert "teacher" in last and "masks" in last


def broken(data, part, change):
    """A copy of the annotations with a change to its first entry of a part."""
    content = json.loads(Path(data[0]).read_text())
    content[part][0] |= change
    return content


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("empty", "is empty"),
        ("category", "category_id 99, which is not in categories"),
        ("image", "000.png cannot be read"),
        ("image in a worker", "000.png cannot be read"),
        ("folder", "Permission denied|Not a directory"),
        ("codec", "needs a codec"),
        ("quality", "quality 9"),
        ("precision", "needs a GPU"),
        ("teacher", "nowhere.pth"),
        ("device", "device 'foo' cannot be used"),
        ("scratch", "initial weights"),
        ("iterations", "bridge conv1"),
    ],
)
def test_what_is_wrong_is_one_line(data, tmp_path, case, message):
    annotations, images = data
    arguments, out = [*CODEC, "--iterations", "2"], tmp_path / "out"
    path = tmp_path / "changed.json"
    if case == "empty":
        path.write_text("")
    elif case == "category":
        path.write_text(json.dumps(broken(data, "annotations", {"category_id": 99})))
    if case in ("empty", "category"):
        annotations = path
    if case.startswith("image"):
        images = tmp_path / "images"
        images.mkdir()
        for image in Path(data[1]).iterdir():
            (images / image.name).write_bytes(image.read_bytes()[:200])
        annotations = tmp_path / "one.json"
        content = json.loads(Path(data[0]).read_text())
        content["images"] = content["images"][:1]
        first = content["images"][0]["id"]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] == first]
        annotations.write_text(json.dumps(content))
        arguments += ["--workers", "1"] if case.endswith("worker") else []
    if case == "folder":
        (tmp_path / "file").touch()
        out = tmp_path / "file" / "out"
    arguments = {
        "codec": ["--iterations", "2"],
        "quality": ["--codec", "tiny-bmshj2018-hyperprior", "--quality", "9"],
        "precision": [*arguments, "--precision", "bfloat16"],
        "teacher": [*arguments, "--teacher", "nowhere.pth"],
        "device": [*arguments, "--device", "foo"],
        "scratch": ["--domain", "image", "--model", "standard"],
        "iterations": [*arguments, "--iterations", "0"],
    }.get(case, arguments)
    last = refused(*words((annotations, images), *arguments, "--output", out))
    assert any(part in last for part in message.split("|")), last
