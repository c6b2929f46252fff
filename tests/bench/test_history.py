import json

import pytest

from cdl_d2.bench.curves import history_figure, read_history
from cdl_d2.errors import CdlError
from tests.commands import output_of


@pytest.fixture
def folder(tmp_path):
    lines = [{"iteration": 19, "loss_cls": 2.0}]
    lines += [{"iteration": 39, "loss_cls": 1.0, "classification/loss": 1.5}]
    lines += [{"classification/top1": 50.0}]  # of an evaluation without training
    (tmp_path / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    results = {"classification": {"top1": 50.0}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    return tmp_path


def test_losses_of_training_and_validation_are_drawn_at_their_iterations(folder):
    keys = ["loss_cls", "classification/loss"]
    assert read_history(folder, keys[0]) == [(19, 2.0), (39, 1.0)]
    (axis,) = history_figure([("a", folder), ("a", folder), ("b", folder)], keys).axes
    assert [line.get_xydata().tolist() for line in axis.lines[:2]] == [
        [[19, 2.0], [39, 1.0]],
        [[39, 1.5]],
    ]
    colors = [line.get_color() for line in axis.lines]
    assert len(set(colors[:4])) == 1 and colors[4] != colors[0]
    assert len(axis.get_legend().get_texts()) == 4


def test_what_is_missing_is_named(folder, tmp_path):
    with pytest.raises(CdlError, match="it has classification/loss, loss_cls"):
        read_history(folder, "loss_rpn_cls")
    with pytest.raises(FileNotFoundError, match="no metrics"):
        read_history(tmp_path / "nowhere", "loss_cls")


def test_the_command_draws_them_beside_its_table(folder):
    picture = folder / "losses.png"
    words = ["compare", f"a={folder}", "--keys", "classification/top1"]
    text = output_of(*words, "--history", "loss_cls", "--history-output", picture)
    assert "50.000" in text and picture.stat().st_size > 1000
