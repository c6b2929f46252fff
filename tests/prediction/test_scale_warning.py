"""Files that were coded at another size than the model's: one warning per run."""

import pytest

from cdl_d2.data import Variant
from cdl_d2.prediction.merging import scale_warning
from tests.commands import run


def record(name, size, coded_size=None):
    """The record of an image of a size, coded at another one, or not coded."""
    fields = {"file_name": name, "height": size[0], "width": size[1]}
    if coded_size is None:
        return fields
    return fields | {"bits": 100.0, "bits_per_pixel": 100 / (coded_size[0] * coded_size[1])}


@pytest.mark.parametrize(("short_edge", "is_other"), [(0, False), (62, False), (128, True)])
def test_a_file_at_its_own_size_is_a_warning_if_the_model_resizes_it(short_edge, is_other):
    records = [record("image", (64, 96)), record("photo", (64, 96), (64, 96))]
    warning = scale_warning(Variant(short_edge).apply, records)
    assert bool(warning) == is_other
    assert not warning or all(text in warning for text in ("1 of 1", "photo", "0.50", "128 x 192"))


def test_a_file_that_was_resized_for_the_model_is_none():
    records = [record("photo", (640, 960), (64, 96))]
    assert not scale_warning(Variant(64).apply, records)
    assert scale_warning(Variant(0).apply, records)


def test_a_run_warns_once(latent_model, images, coded, tmp_path):
    words = ["predict", latent_model, coded, "--output", tmp_path / "coded", "--device", "cpu"]
    (line,) = [line for line in run(*words)[2].splitlines() if "warning" in line]
    assert "1 of 5" in line and "1.cdlz" in line  # its short side has 50 pixels, the model's 64
    words = ["predict", latent_model, images, "--output", tmp_path / "images", "--device", "cpu"]
    assert "warning" not in run(*words)[2]  # the model resizes images
