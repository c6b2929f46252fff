"""Ground truth of classifiers: folders of images per class."""

from types import SimpleNamespace

import pytest
from PIL import Image

from cdl_d2.errors import CdlError
from cdl_d2.prediction.tasks.classification import ClassGroundTruth


@pytest.fixture
def folder(tmp_path):
    for name in ("cat", "ant"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / f"{name}_1.png")
    return tmp_path


def top1(truth: ClassGroundTruth, winners: dict[str, int]) -> float:
    count = len(truth.class_names)
    records = [
        {"file_name": name, "probabilities": [float(i == winner) for i in range(count)]}
        for name, winner in winners.items()
    ]
    return truth.results(records, list(winners), SimpleNamespace())["classification"]["top1"]


def test_folders_of_some_classes_are_matched_by_name(folder):
    truth = ClassGroundTruth(folder, ["ant", "bee", "cat"])
    assert top1(truth, {"ant_1.png": 0, "cat_1.png": 2}) == 100
    assert top1(truth, {"ant_1.png": 0, "cat_1.png": 1}) == 50


def test_a_class_that_the_model_lacks_is_named(folder):
    with pytest.raises(CdlError, match="ant"):
        ClassGroundTruth(folder, ["bee", "cat", "dog"])
