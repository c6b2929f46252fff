"""The folder of a conversion works after a move, without the files that it was made of."""

import shutil

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from cdl_d2.codec import Codec
from cdl_d2.codec.io.weights_file import save_weights
from cdl_d2.prediction.loading import load_model
from tests.cli.test_convert import save_run
from tests.commands import output_of
from tests.d2.conftest import small_cfg


def test_a_moved_model_finds_the_weights_of_its_codec(coco_dataset, tmp_path):
    codec, weights = Codec.load("tiny-bmshj2018-hyperprior", 1), tmp_path / "mine.safetensors"
    save_weights(weights, codec.network, {})
    words = "--codec", codec.name, "--quality", 1, "--codec-weights", weights
    rgb = save_run(small_cfg("pixel"), tmp_path / "rgb")
    output_of("convert", rgb, coco_dataset[1], *words, "--output", tmp_path / "out")
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.move(tmp_path / "out", tmp_path / "elsewhere" / "model")
    shutil.rmtree(rgb)
    weights.unlink()
    model = load_model(moved, "cpu")
    assert model.coded_input.codec.identity == codec.identity
    assert model.network.coded_input.codec.identity == codec.identity
