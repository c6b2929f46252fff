import copy
import json

import pytest

from cdl_d2.data.datasets.coco import class_names, read_coco

VALID = {
    "images": [{"id": 1, "file_name": "a/1.png", "height": 64, "width": 64}],
    "annotations": [{"id": 5, "image_id": 1, "category_id": 9, "bbox": [0, 0, 4, 4]}],
    "categories": [{"id": 9, "name": "late"}, {"id": 3, "name": "early"}],
}


def changed(part: str, **entry):
    content = copy.deepcopy(VALID)
    content[part][0] |= entry
    return content


def test_a_valid_file_is_returned_and_names_follow_the_ids(tmp_path):
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(VALID))
    content = read_coco(path)
    assert content["images"] == VALID["images"]
    assert content["annotations"] == [VALID["annotations"][0] | {"iscrowd": 0, "area": 16.0}]
    assert class_names(VALID) == ["early", "late"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("{", "not JSON"),
        ([], "not COCO format: it has no list 'images'"),
        (VALID | {"images": []}, "has no images"),
        (VALID | {"categories": [3]}, "categories without 'id'"),
        (changed("annotations", category_id=4), "category_id 4, which is not in categories"),
        (changed("annotations", image_id=2), "image_id 2, which is not in images"),
        (changed("images", file_name="../1.png"), "not inside the image folder"),
        (changed("categories", id=3), "several categories of id 3"),
        (changed("categories", id="9"), "ids must be whole numbers"),
        (changed("categories", name="early"), "category name 'early'"),
        (changed("images", height=0), "height 0"),
        (changed("images", file_name=5), "file_name 5 is not inside"),
        (changed("annotations", bbox=[0, 0, 4]), r"bbox \[0, 0, 4\]"),
        (changed("annotations", area="x"), "area 'x'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, content, message):
    path = tmp_path / "annotations.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_coco(path)


def test_test_images_need_no_annotations(tmp_path):
    path = tmp_path / "image_info.json"
    path.write_text(json.dumps({"images": VALID["images"]}))
    assert read_coco(path, parts=["images"])["images"] == VALID["images"]
