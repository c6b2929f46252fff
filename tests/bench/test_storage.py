"""cdl bench storage, and the numbers that benchmarks take."""

import json

import pytest
from PIL import Image

from tests.commands import output_of, refused

CODEC = "--codec", "tiny-bmshj2018-hyperprior", "--quality", 2


def test_one_image_is_enough(tmp_path):
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(tmp_path / "a.png")
    words = tmp_path, "--repeats", 1, "--workers", 1, "--short-edge", 0, "--json"
    rows = json.loads(output_of("bench", "storage", *words, *CODEC))
    assert len(rows) == 12 and rows[-1]["value"] is None  # the rate of one image
    assert all(row["value"] > 0 for row in rows[:-1])


@pytest.mark.parametrize(
    ("command", "option"),
    [
        *((("storage", "images", *CODEC), o) for o in ("count", "repeats", "threads", "max-size")),
        *((("files", "model", "images"), o) for o in ("count", "repeats", "threads")),
        *((("predict", "model", "coded"), o) for o in ("count", "workers")),
        (("model", "x.yaml"), "repeats"),
    ],
)
def test_numbers_are_above_zero(command, option):
    assert f"--{option}" in refused("bench", *command, f"--{option}", 0)
