import math

import pytest

from cdl_d2.metrics.coco_precision import CocoIndex, average_precision

SQUARE = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 40, 40], "area": 1600}
COCO = {
    "images": [{"id": 1, "width": 64, "height": 64}],
    "categories": [{"id": 1, "name": "square"}],
    "annotations": [SQUARE | {"iscrowd": 0, "segmentation": [[4, 4, 44, 4, 44, 44, 4, 44]]}],
}
WRONG = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2], "score": 0.5}


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_no_detection_counts_like_a_wrong_one(task):
    wrong = WRONG | {"segmentation": {"size": [64, 64], "counts": "T1`1"}}
    nothing, something = (
        average_precision(CocoIndex(COCO), records, task) for records in ([], [wrong])
    )
    assert nothing["AP"] == nothing["APm"] == 0
    assert math.isnan(nothing["APs"]) and math.isnan(nothing["APl"])
    assert [*map(str, nothing.values())] == [*map(str, something.values())]


@pytest.mark.parametrize("records", [[], [WRONG]])
def test_without_objects_there_is_no_precision(records):
    empty = CocoIndex(COCO | {"annotations": []})
    assert all(math.isnan(value) for value in average_precision(empty, records, "bbox").values())
