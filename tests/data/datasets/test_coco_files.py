"""COCO-format files of any tool give the results of a clean copy, or an error with their faults."""

import copy
import json
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cdl_d2.data import Variant
from cdl_d2.data.datasets.coco import read_coco
from cdl_d2.data.datasets.image_lists import list_images
from cdl_d2.errors import CdlError
from cdl_d2.metrics.coco_precision import CocoIndex, average_precision
from cdl_d2.prediction.tasks.detection import CocoGroundTruth
from cdl_d2.tv import CocoItems
from tests.coco_files import (
    FAULTS,
    MESSES,
    SIZE,
    clean_file,
    detections_of,
    pycocotools_ap,
    with_fault,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the images."""
    folder = tmp_path_factory.mktemp("images")
    for number in (1, 2):
        Image.new("RGB", SIZE[::-1]).save(folder / f"{number}.png")
    return folder


def written(content, folder):
    (folder / "messy.json").write_text(json.dumps(content))
    return folder / "messy.json"


def without_nan(values):
    return [None if value != value else value for value in values.values()]


def precision_of_truth(path, results, task):
    """Return the precision that `cdl predict --annotations` reports for these results."""
    labels = {5: 1, 8: 2}
    entries = [
        {
            "file_name": f"{number}.png",
            "height": SIZE[0],
            "width": SIZE[1],
            "objects": [
                e | {"category_id": labels[e["category_id"]]}
                for e in copy.deepcopy(results)
                if e["image_id"] == number
            ],
        }
        for number in (1, 2)
    ]
    names = [entry["file_name"] for entry in entries]
    return without_nan(CocoGroundTruth(path, ["disc", "bar"]).results(entries, names)[task])


messy_files = st.lists(st.sampled_from(sorted(MESSES)), max_size=4, unique=True)
seeds = st.integers(0, 9)


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(names=messy_files, fault=st.none() | st.sampled_from(sorted(FAULTS)), seed=seeds)
def test_a_file_is_an_error_or_gives_the_precision_of_a_clean_copy(folder, names, fault, seed):
    clean, messy = clean_file(seed), clean_file(seed)
    number = with_fault(messy, fault) if fault else None
    for name in names if not fault else ():
        MESSES[name](messy, Random(seed))
    path, results = written(messy, folder), detections_of(clean, seed)
    if fault:
        for read in (read_coco, lambda file: CocoItems(file, folder, [Variant()], training=True)):
            with pytest.raises(CdlError, match=f"annotation {number}"):
                read(path)
        return
    items = CocoItems(path, folder, [Variant()], training=False)
    for task in ("bbox", "segm"):
        expected = pycocotools_ap(clean, results, task)
        assert without_nan(average_precision(items.coco, copy.deepcopy(results), task)) == expected
        assert precision_of_truth(path, results, task) == expected


@pytest.mark.parametrize("name", MESSES)
def test_unambiguous_content_is_repaired(folder, name, caplog):
    clean, messy = clean_file(), clean_file()
    MESSES[name](messy, Random(0))
    content = read_coco(written(messy, folder), images=folder)
    if name == "a closed polygon":  # which is fine as it is
        return
    expected = read_coco(written(clean, folder), images=folder)
    runs = ("an RLE of runs",)
    for part in ("images", "annotations", "categories"):
        for entry, clean in zip(content[part], expected[part], strict=True):
            keys = {*clean} - ({"segmentation"} if name in runs else set())
            assert {key: entry[key] for key in keys} == {key: clean[key] for key in keys}
    assert name in ("no area", *runs) or len(caplog.records) <= 1


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named(folder, name):
    content = clean_file()
    number = with_fault(content, name)
    with pytest.raises(CdlError, match=rf"faults \(1\): annotation {number}"):
        read_coco(written(content, folder))


def test_all_faults_are_counted_and_the_first_twenty_listed(folder):
    content = clean_file()
    entry = content["annotations"][0]
    content["annotations"] += [entry | {"id": 100 + i, "bbox": [0, 0, -1, 2]} for i in range(30)]
    with pytest.raises(CdlError) as error:
        read_coco(written(content, folder))
    assert "faults (30)" in str(error.value) and str(error.value).count("annotation 1") == 20
    assert "\n" not in str(error.value)


def test_repairs_are_reported_once_in_one_line_with_an_example(folder, caplog):
    content = clean_file()
    for entry in content["annotations"]:
        del entry["iscrowd"], entry["area"]
    for _ in range(3):
        read_coco(written(content, folder))
    (record,) = caplog.records
    assert "iscrowd: 8 (annotation 1); annotations without area: 8" in record.getMessage()


def test_a_clean_file_is_left_alone(folder, caplog):
    content = clean_file()
    assert read_coco(written(content, folder), images=folder) == content
    assert not caplog.records


def test_an_object_without_a_mask_counts_for_no_mask(folder):
    """Detections there are neither right nor wrong; its box counts as usual."""
    content = clean_file()
    results = detections_of(content)
    del content["annotations"][5]["segmentation"]
    crowd = copy.deepcopy(content)
    left, top, width, height = crowd["annotations"][5]["bbox"]
    right, bottom = left + width, top + height
    corners = [left, top, right, top, right, bottom, left, bottom]
    crowd["annotations"][5] |= {"iscrowd": 1, "segmentation": [corners]}
    coco = CocoIndex(read_coco(written(content, folder)))
    for task, copied in (("segm", crowd), ("bbox", content), ("segm", crowd)):
        precision = average_precision(coco, copy.deepcopy(results), task)
        assert without_nan(precision) == pycocotools_ap(copied, results, task)


def test_boxes_without_area_are_evaluated_as_pycocotools_does(folder):
    content = clean_file()
    content["annotations"][0]["bbox"] = [10, 10, 0, 5]
    results = detections_of(clean_file())
    coco = CocoIndex(read_coco(written(content, folder)))
    precision = without_nan(average_precision(coco, copy.deepcopy(results), "bbox"))
    assert precision == pycocotools_ap(content, results, "bbox")


@pytest.mark.parametrize("prefix", ["images/", "/data/export/images/", "C:\\export\\images\\"])
def test_a_folder_that_all_names_begin_with_is_dropped_where_the_images_are(folder, prefix):
    content = clean_file()
    for image in content["images"]:
        image["file_name"] = prefix + image["file_name"]
    names = [i["file_name"] for i in read_coco(written(content, folder), images=folder)["images"]]
    assert names == list_images(folder, folder / "messy.json") == ["1.png", "2.png"]


def test_absolute_names_are_inside_where_no_folder_of_images_is_known(folder):
    content = clean_file()
    for image in content["images"]:
        image["file_name"] = f"/data/{image['file_name']}"
    names = [image["file_name"] for image in read_coco(written(content, folder))["images"]]
    assert names == ["data/1.png", "data/2.png"]


@pytest.mark.parametrize("missing", [{"height": None}, {"height": 0, "width": -1}])
def test_sizes_that_are_missing_are_read_from_the_images(folder, missing):
    content = clean_file()
    content["images"][0] |= missing
    image = read_coco(written(content, folder), images=folder)["images"][0]
    assert (image["height"], image["width"]) == SIZE


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_marks_of_byte_order_are_read_over(folder, encoding):
    content = clean_file()
    content["categories"][0]["name"] = "Zelle é"
    path = folder / "marked.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
    assert read_coco(path) == content


def test_images_that_do_not_exist_are_all_named_before_training(folder):
    content = clean_file()
    content["images"][1]["file_name"] = "lost.png"
    with pytest.raises(CdlError, match=r"faults \(1\): .*lost\.png"):
        CocoItems(written(content, folder), folder, [Variant()], training=True)


def keypoint_file():
    content = clean_file()
    content["categories"][0]["keypoints"] = ["left", "right"]
    for entry in content["annotations"]:
        entry |= {"keypoints": [1, 2, 2, 0, 0, 0], "num_keypoints": 1}
    return content


@pytest.mark.parametrize(
    ("keypoints", "normal", "labelled"),
    [
        ({"keypoints": [[1, 2, 2], [0, 0, 0]]}, [1, 2, 2, 0, 0, 0], 1),
        ({"keypoints": [1, 2, 2, None, None, 0]}, [1, 2, 2, 0, 0, 0], 1),
        ({"keypoints": []}, [0] * 6, 0),
        ({"keypoints": [1, 2, 1.0, 3, 4, 2]}, [1, 2, 1, 3, 4, 2], 2),
    ],
)
def test_keypoints_have_three_numbers_each(folder, keypoints, normal, labelled):
    content = keypoint_file()
    content["annotations"][1] |= keypoints
    del content["annotations"][1]["num_keypoints"]
    entry = read_coco(written(content, folder))["annotations"][1]
    assert (entry["keypoints"], entry["num_keypoints"]) == (normal, labelled)


@pytest.mark.parametrize(
    "points", [[1, 2, 2], [1, 2, 2, 3, 4, 5], [1, 2, 2, "x", 0, 1], 7, "abcdef"]
)
def test_other_keypoints_are_a_fault(folder, points):
    content = keypoint_file()
    content["annotations"][1]["keypoints"] = points
    with pytest.raises(CdlError, match="annotation 2"):
        read_coco(written(content, folder))
