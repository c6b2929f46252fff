import copy
import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from cdl_d2.data.datasets.coco import class_names, read_coco
from cdl_d2.errors import CdlError

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
        (changed("categories", id="nine"), "ids must be whole numbers"),
        (VALID | {"categories": [*VALID["categories"], {"id": 4, "name": "early"}]}, "'early'"),
        (changed("images", height=0), "height 0"),
        (changed("images", height=10**9), "a/1.png.*CDL_MAX_PIXELS"),
        (changed("images", file_name=5), "file_name 5 is not inside"),
        (changed("annotations", bbox=[0, 0, 4]), r"bbox \[0, 0, 4\]"),
        (changed("annotations", area="x"), "area 'x'"),
        (changed("annotations", area=10**400), "area 1000"),
        (changed("annotations", bbox=[0, 0, 4, 2**64]), "bbox"),
        (changed("annotations", bbox=[0, 0, 4, 10**400]), "bbox"),
        (changed("images", id=2**64), "up to 2"),
    ],
)
def test_invalid_content_is_named(tmp_path, content, message):
    path = tmp_path / "annotations.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_coco(path)


RLE = {"size": [64, 64], "counts": [4096]}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"image_id": [1]}, "image_id"),
        ({"category_id": {}}, "category_id"),
        ({"segmentation": RLE | {"counts": [4000]}}, "counts"),
        ({"segmentation": RLE | {"counts": [5000, -904]}}, "counts"),
        ({"segmentation": RLE | {"counts": [4095.5, 0.5]}}, "counts"),
        ({"segmentation": RLE | {"counts": "0"}}, "counts"),
        ({"segmentation": RLE | {"counts": "\u00e9"}}, "corrupted"),
        ({"segmentation": RLE | {"counts": "P"}}, "corrupted"),
        ({"segmentation": RLE | {"counts": "o" * 30 + "0"}}, "32 bits"),
        ({"segmentation": RLE | {"counts": 4096}}, "counts"),
        ({"segmentation": {"size": [100_000, 100_000], "counts": [10**10]}}, "size"),
        ({"segmentation": {"counts": [4096]}}, "size"),
        ({"segmentation": [[0, 0, 1e7, 0, 1e7, 1e7]]}, "outside"),
        ({"segmentation": [[0, 0, -1e300, 0, 9, 9]]}, "outside"),
        ({"segmentation": [[0, 0, 10**400, 0, 9, 9]]}, "outside"),
        ({"segmentation": [[0, 0, float("nan"), 0, 9, 9]]}, "outside"),
        ({"segmentation": [[0, 0, 60, 60] * 500]}, "does not fit"),
        ({"segmentation": [[0, 0, "9", 0, 9, 9]]}, "polygon"),
        ({"segmentation": [5, "a"]}, "polygon"),
        ({"segmentation": "polygon"}, "neither"),
    ],
)
def test_a_mask_is_checked_before_it_is_decoded(tmp_path, entry, message):
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(changed("annotations", **entry)))
    with pytest.raises(CdlError, match=message):
        read_coco(path)


@pytest.mark.parametrize("seed", range(8))
def test_masks_of_pycocotools_are_valid(tmp_path, seed):
    rng = np.random.default_rng(seed)
    mask = (rng.random((64, 64)) < seed / 7).astype(np.uint8)
    mask[:, 20:50] = seed % 2
    coded = coco_mask.encode(np.asfortranarray(mask))
    rle = {"size": [64, 64], "counts": coded["counts"].decode()}
    polygons = [[0, 0, 64.0, 0, 64, 70], [1, 2, 3, 4, 5, 6]]
    for segmentation in (rle, RLE, polygons):
        path = tmp_path / "annotations.json"
        path.write_text(json.dumps(changed("annotations", segmentation=segmentation)))
        assert read_coco(path)["annotations"][0]["segmentation"] == segmentation


@pytest.mark.parametrize(
    "none", [None, [], [[]], {}, [[4, 4, 44, 44]], [[4, 4]], [4, 4], [[1] * 7]]
)
def test_without_a_valid_mask_the_box_remains(tmp_path, none):
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(changed("annotations", segmentation=none)))
    entry = read_coco(path)["annotations"][0]
    assert "segmentation" not in entry and entry["bbox"] == [0, 0, 4, 4]


def test_deeply_nested_json_is_one_error(tmp_path):
    path = tmp_path / "annotations.json"
    path.write_text("[" * 100_000)
    with pytest.raises(CdlError, match=r"annotations\.json"):
        read_coco(path)


def test_test_images_need_no_annotations(tmp_path):
    path = tmp_path / "image_info.json"
    path.write_text(json.dumps({"images": VALID["images"]}))
    assert read_coco(path, parts=["images"])["images"] == VALID["images"]
