"""Detections of an archive, beside annotations in COCO's format."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from cdl_d2.errors import CdlError
from cdl_d2.prediction.tasks.detection import CocoTruth
from cdl_d2.prediction.tasks.task import have_one_shape


def test_bitstreams_of_resized_images_are_evaluated_at_the_size_of_the_annotations(tmp_path):
    annotations = tmp_path / "annotations.json"
    image = {"id": 5, "file_name": "a.png", "height": 50, "width": 40}
    truth = {"id": 1, "image_id": 5, "category_id": 3, "bbox": [10, 10, 20, 20]}
    corners = [[10, 10, 30, 10, 30, 30, 10, 30]]
    categories = [{"id": 3, "name": "disc"}]
    content = {"images": [image], "categories": categories}
    content["annotations"] = [truth | {"segmentation": corners, "area": 400, "iscrowd": 0}]
    annotations.write_text(json.dumps(content))
    mask = np.zeros((100, 80), np.uint8, order="F")
    mask[20:60, 20:60] = 1
    found = {"image_id": 0, "category_id": 1, "bbox": [20, 20, 40, 40], "score": 1.0}
    found["segmentation"] = coco_mask.encode(mask)
    entries = [{"file_name": "a.cdlz", "height": 100, "width": 80, "objects": [found]}]
    known = CocoTruth(annotations, ["disc"])
    results = known.results(entries, ["a.cdlz"])
    assert results["bbox"]["AP"] == results["segm"]["AP"] == pytest.approx(100)
    fitted = known.fitted(entries[0])
    assert (fitted["height"], fitted["width"]) == (50, 40)
    assert fitted["objects"][0]["bbox"] == [10, 10, 20, 20]
    assert json.loads(json.dumps(fitted)) == known.fitted(fitted) == fitted
    entries[0] |= {"height": 80, "width": 100}
    assert known.fitted(entries[0]) == entries[0]
    with pytest.raises(CdlError, match="upright"):
        known.results(entries, ["a.cdlz"])


@pytest.mark.parametrize(
    ("size", "other", "same"),
    [
        ((4000, 3010), (100, 75), True),
        ((75, 100), (3010, 4000), True),
        ((480, 640), (256, 341), True),
        ((480, 640), (640, 480), False),
        ((100, 100), (100, 103), False),
    ],
)
def test_sizes_that_resizing_can_give_are_of_one_shape(size, other, same):
    assert have_one_shape(size, other) == have_one_shape(other, size) == same
