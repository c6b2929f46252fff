"""Label maps of an archive, beside those of people."""

import numpy as np
import pytest
from PIL import Image

from cdl_d2.errors import CdlError
from cdl_d2.prediction.tasks.segmentation import LabelGroundTruth


def write_map(folder, rows):
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.array(rows, dtype=np.uint8)).save(folder / "a.png")


def results(tmp_path, truth, labels):
    write_map(tmp_path / "truth", truth)
    write_map(tmp_path / "labels", labels)
    entries = [{"file_name": "a.cdlz", "label_map": "labels/a.png"}, {"file_name": "b.cdlz"}]
    ground_truth = LabelGroundTruth(tmp_path / "truth", ["sky", "road", "car"])
    assert ground_truth.has("a.cdlz") and not ground_truth.has("b.cdlz")
    return ground_truth.results(entries, ["a.cdlz", "b.cdlz"], tmp_path)["sem_seg"]["mIoU"]


def test_the_mean_iou_is_over_classes_that_occur_and_pixels_that_count(tmp_path):
    # sky: 1 of 2 pixels, union 2; road: 1 of 1, union 2 (the wrong sky); ignored: not at all
    assert results(tmp_path, [[0, 0, 1, 255]], [[0, 1, 1, 2]]) == pytest.approx(50)


def test_predictions_of_resized_images_are_compared_in_pixels_of_the_annotations(tmp_path):
    truth = np.array([[0, 0, 1], [2, 1, 1]]).repeat(4, 0).repeat(4, 1)
    assert results(tmp_path, truth, truth[::2, ::2]) == 100
    assert results(tmp_path, truth[::4, ::4], truth) == 100


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ([[0], [1], [1], [1], [1], [1]], "of another shape"),
        ([[0, 0, 3]], "label 3"),
        ([[255, 255, 255]], "ignores every"),
    ],
)
def test_label_maps_of_something_else_are_named(tmp_path, truth, message):
    with pytest.raises(CdlError, match=message):
        results(tmp_path, truth, [[0, 1, 1]])


def test_annotations_of_other_images_are_refused_before_anything_is_predicted(tmp_path):
    write_map(tmp_path / "truth", [[0]])
    with pytest.raises(CdlError, match="none of the predicted"):
        LabelGroundTruth(tmp_path / "truth", ["sky"]).require_any(["other.png"])
