"""One prediction is a short way through the code: few moves between files."""

import torch

from cdl_d2.codec import Codec
from tests.commands import output_of
from tests.moves import count_moves

LIMIT = 108  # with numba, whose coder is a file of its own; most build the network and decode


def test_a_prediction_moves_seldom_between_files(tmp_path):
    image = torch.rand(3, 256, 256)  # the size of the model's evaluation
    stream = Codec.load("tiny-bmshj2018-hyperprior", 2).compress(image)
    stream.save(tmp_path / "0.cdlz")

    def predict(folder):
        output_of("predict", "nuclei-bridge", tmp_path / "0.cdlz", "--output", tmp_path / folder)

    predict("first")  # imports, and loads the codec
    _, moves, _ = count_moves(lambda: predict("second"))
    assert moves <= LIMIT
