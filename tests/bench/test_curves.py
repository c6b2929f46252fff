import json
import shutil

import pytest

from cdl_d2 import tasks
from cdl_d2.bench.curves import Point, rate_saving, read_point, tradeoff_figure
from cdl_d2.bench.results import LABELS, value_label
from tests.commands import output_of, refused

KEYS = ("bpp", "mIoU")


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
    with pytest.raises(ValueError, match="point 'a' has no"):
        read_point("a", [], ["rate/bpp"])
    with pytest.raises(ValueError, match=r"no 'rate/psnr'; it has rate/bpp"):
        read_point("a", folders, ["rate/psnr"])


def make_curve(name, rates, accuracies):
    places = zip(rates, accuracies, strict=True)
    return [Point(str(r), name, {"bpp": r, "mIoU": a}, 1) for r, a in places]


def test_half_the_rate_at_every_accuracy_is_a_saving_of_half():
    points = make_curve("a", [0.8, 0.2, 0.4], [60.0, 20.0, 40.0])  # in any order
    points += make_curve("b", [0.1, 0.2, 0.3, 0.4], [20.0, 40.0, 52.0, 60.0])
    assert rate_saving(points, "a", "a", "bpp", "mIoU") == pytest.approx(0)
    saved = rate_saving(
        points[:3] + make_curve("b", [0.1, 0.2, 0.4], [20, 40, 60]), "a", "b", *KEYS
    )
    assert saved == pytest.approx(50)
    assert rate_saving(points, "b", "a", *KEYS) < 0 < rate_saving(points, "a", "b", *KEYS)


@pytest.mark.parametrize(
    ("rates", "accuracies", "message"),
    [
        ([0.1], [20.0], "needs two points or more"),
        ([0.1, 0.2], [20.0, 15.0], "each better than the one before"),
        ([0.1, 0.2], [70.0, 80.0], "no mIoU in common"),
    ],
)
def test_curves_that_cannot_be_compared_are_named(rates, accuracies, message):
    points = make_curve("a", [0.2, 0.4], [20.0, 60.0]) + make_curve("b", rates, accuracies)
    with pytest.raises(ValueError, match=message):
        rate_saving(points, "a", "b", *KEYS)
    with pytest.raises(ValueError, match="no curve 'c'"):
        rate_saving(points, "a", "c", *KEYS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "it has no results"),
        ('{"rate": 0.5}', "it has no results"),
        ('{"rate": {"bpp": "x"}}', "has 'x' for 'rate/bpp', which is no finite number"),
        ('{"rate": {"bpp": NaN}}', "has nan for 'rate/bpp'"),
    ],
)
def test_results_that_cannot_be_used_are_named(tmp_path, content, message):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_point("a", [tmp_path], ["rate/bpp"])


def test_a_baseline_is_named_in_the_picture():
    point = Point("pixels", "", {"mIoU": 40.0}, 1)
    figure = tradeoff_figure([point, *make_curve("a", [0.1, 0.2], [20.0, 30.0])], *KEYS)
    figure.draw_without_rendering()
    name = next(text for text in figure.axes[0].texts if text.get_text() == "pixels")
    assert figure.bbox.contains(*name.get_window_extent().get_points().mean(0))


def test_axes_of_known_values_are_not_named_by_keys(folders):
    keys = ["rate/bpp", "classification/top1"]
    axis = tradeoff_figure([read_point("a:1", folders[:1], keys)], *keys).axes[0]
    assert "/" not in axis.get_xlabel() + axis.get_ylabel()
    metrics = {key for task in tasks.TASKS.values() for key in task.metrics}
    assert metrics <= LABELS.keys()
    assert value_label("night/bbox/AP") == f"{value_label('bbox/AP')}, night"
    assert value_label("my/own") == "my/own" and value_label("loss") == "loss"


def test_a_bar_spans_the_seeds_of_a_point(folders):
    keys = ["rate/bpp", "classification/top1"]
    one, both = read_point("a:1", folders[:1], keys), read_point("a:2", folders, keys)
    (bar,) = tradeoff_figure([one, both], *keys).axes[0].collections
    (segment,) = bar.get_segments()
    assert segment.tolist() == [[0.5, 50.0], [0.5, 70.0]]


def test_the_command_averages_seeds_and_draws(folders, tmp_path):
    models = [f"a={folder}" for folder in folders[:2]]
    models += [f"joint:b={folders[1]}", f"joint:c={folders[0]}"]
    plot = ["--plot", "rate/bpp", "classification/top1"]
    keys = ["--keys", "rate/bpp"]
    baseline = ["--baseline", f"pixels={folders[1]}"]
    words = ["compare", *models, *keys, *plot, *baseline, "--output", tmp_path / "plot.png"]
    pixels, mean, *joint = json.loads(output_of(*words, "--json"))
    assert (pixels["rate/bpp"], pixels["classification/top1"]) == (None, 70.0)
    assert (mean["seeds"], mean["rate/bpp"], mean["classification/top1"]) == (2, 0.5, 60.0)
    assert [row["run"] for row in joint] == ["joint: b", "joint: c"]
    assert (tmp_path / "plot.png").stat().st_size > 1000
    saving = output_of(*words, "--saving", "joint", "joint").splitlines()[-1]
    assert "joint" in saving and "0.0 %" in saving
    refused("compare", *models, *keys, *plot)  # no --output
    refused("compare", *models, *keys, *baseline)
    copy = shutil.copytree(folders[0], tmp_path / "x" / folders[0].name)
    same_last_part = [folders[0], copy]  # two models, not two seeds
    rows = json.loads(output_of("compare", *same_last_part, *keys, "--json"))
    assert [row["run"] for row in rows] == [*map(str, same_last_part)]
    (row,) = json.loads(output_of("compare", "nuclei-bridge", "--keys", "segm/AP", "--json"))
    assert row["segm/AP"] > 0
