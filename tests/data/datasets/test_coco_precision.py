import math

import pytest

from cdl_d2.metrics.coco_precision import average_precision, index_coco

SQUARE = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 40, 40], "area": 1600}
COCO = {
    "images": [{"id": 1, "width": 64, "height": 64}],
    "categories": [{"id": 1, "name": "square"}],
    "annotations": [SQUARE | {"iscrowd": 0, "segmentation": [[4, 4, 44, 4, 44, 44, 4, 44]]}],
}
WRONG = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2], "score": 0.5}


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_finding_nothing_counts_as_finding_something_wrong(task):
    wrong = WRONG | {"segmentation": {"size": [64, 64], "counts": "T1`1"}}
    nothing, something = (
        average_precision(index_coco(COCO), found, task) for found in ([], [wrong])
    )
    assert nothing["AP"] == nothing["APm"] == 0
    assert math.isnan(nothing["APs"]) and math.isnan(nothing["APl"])
    assert [*map(str, nothing.values())] == [*map(str, something.values())]


@pytest.mark.parametrize("found", [[], [WRONG]])
def test_without_objects_there_is_no_precision(found):
    empty = index_coco(COCO | {"annotations": []})
    assert all(math.isnan(value) for value in average_precision(empty, found, "bbox").values())
