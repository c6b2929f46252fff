"""One prediction is a short way through the code: few moves between files."""

from cdl_d2.codec import Codec
from cdl_d2.codec.io.image_files import read_image
from tests.commands import output_of
from tests.moves import count_moves

LIMIT = 110  # with numba, whose coder is a file of its own; most build the network and decode


def test_a_prediction_moves_seldom_between_files(images, tmp_path):
    stream = Codec.load("tiny-bmshj2018-hyperprior", 2).compress(read_image(images / "0.png") / 255)
    stream.save(tmp_path / "0.cdlz")

    def predict(folder):
        output_of("predict", "nuclei-bridge", tmp_path / "0.cdlz", "--output", tmp_path / folder)

    predict("first")  # imports, and loads the codec
    _, moves, _ = count_moves(lambda: predict("second"))
    assert moves <= LIMIT
