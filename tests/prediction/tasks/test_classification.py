"""Classes of an archive's images, beside a folder of classes."""

import shutil

import pytest

from cdl_d2.errors import CdlError
from cdl_d2.prediction.tasks.classification import ClassGroundTruth


def test_classes_are_compared_by_name(images, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        shutil.copy(images / "0.png", tmp_path / name / "0.png")
    entries = [{"file_name": "cat/0.png", "probabilities": [0.1, 0.9]}]
    results = ClassGroundTruth(tmp_path, ["dog", "cat"]).results(entries, [], tmp_path)
    assert results["classification"]["top1"] == 100
    with pytest.raises(CdlError, match="plane"):
        ClassGroundTruth(tmp_path, ["plane", "ship"])
    with pytest.raises(CdlError, match="none"):  # 0.png may be either
        ClassGroundTruth(tmp_path, ["dog", "cat"]).require_any(["0.png"])
