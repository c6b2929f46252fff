"""Detections of an archive, beside annotations in COCO's format."""

import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from cdl_d2.errors import CdlError
from cdl_d2.model_zoo.backends import get_backend
from cdl_d2.prediction.results import Detections, PanopticSegments
from cdl_d2.prediction.tasks.detection import CocoGroundTruth, DetectionTask
from cdl_d2.prediction.tasks.task import same_aspect_ratio


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
    record = {"image_id": 0, "category_id": 1, "bbox": [20, 20, 40, 40], "score": 1.0}
    record["segmentation"] = coco_mask.encode(mask)
    entries = [{"file_name": "a.cdlz", "height": 100, "width": 80, "objects": [record]}]
    ground_truth = CocoGroundTruth(annotations, ["disc"])
    results = ground_truth.results(entries, ["a.cdlz"])
    assert results["bbox"]["AP"] == results["segm"]["AP"] == pytest.approx(100)
    rescaled = ground_truth.rescale(entries[0])
    assert (rescaled["height"], rescaled["width"]) == (50, 40)
    assert rescaled["objects"][0]["bbox"] == [10, 10, 20, 20]
    assert json.loads(json.dumps(rescaled)) == ground_truth.rescale(rescaled) == rescaled
    entries[0] |= {"height": 80, "width": 100}
    assert ground_truth.rescale(entries[0]) == entries[0]
    with pytest.raises(CdlError, match="upright"):
        ground_truth.results(entries, ["a.cdlz"])


@pytest.mark.parametrize("names", [["disc", "square"], ["0", "1"]])
def test_a_category_without_objects_that_the_model_lacks_is_left_out(names, tmp_path):
    annotations = tmp_path / "annotations.json"
    image = {"id": 5, "file_name": "a.png", "height": 50, "width": 40}
    categories = [{"id": i, "name": n} for i, n in enumerate(["shapes", "disc", "square"])]
    box = {"bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0, "image_id": 5}
    content = {"images": [image], "categories": categories}
    for used in ([1], [1, 2], [0, 1, 2]):
        content["annotations"] = [box | {"id": 1 + i, "category_id": i} for i in used]
        annotations.write_text(json.dumps(content))
        if 0 in used or (2 not in used and names[0] == "0"):  # which class of a number is unknown
            with pytest.raises(CdlError):
                CocoGroundTruth(annotations, names)
        else:
            assert CocoGroundTruth(annotations, names).category_ids == [1, 2]


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
    assert same_aspect_ratio(size, other) == same_aspect_ratio(other, size) == same


def test_keypoints_are_written_and_evaluated_in_pixels_of_the_annotations(tmp_path):
    image = {"id": 5, "file_name": "a.png", "height": 50, "width": 40}
    points = [value for i in range(17) for value in (10 + i, 12 + i, 2)]
    truth = {"id": 1, "image_id": 5, "category_id": 3, "bbox": [10, 10, 20, 20]}
    content = {"images": [image], "categories": [{"id": 3, "name": "person"}]}
    content["annotations"] = [truth | {"area": 400, "iscrowd": 0, "keypoints": points}]
    (tmp_path / "a.json").write_text(json.dumps(content))
    detections = Detections(  # of the same image, twice as large
        image_size=(100, 80),
        class_names=("person",),
        boxes=torch.tensor([[20.0, 20, 60, 60]]),
        labels=torch.tensor([0]),
        scores=torch.tensor([0.9]),
        keypoints=torch.tensor([[[2 * (10.5 + i), 2 * (12.5 + i), 0.7] for i in range(17)]]),
    )
    entry = DetectionTask().to_record(detections, None) | {
        "file_name": "a.cdlz",
        "height": 100,
        "width": 80,
    }
    ground_truth = CocoGroundTruth(tmp_path / "a.json", ["person"])
    rescaled = ground_truth.rescale(entry)["objects"][0]["keypoints"]
    assert rescaled[::3] == pytest.approx(points[::3]) and rescaled[2] == pytest.approx(0.7)
    results = ground_truth.results([entry], ["a.cdlz"])
    assert results["keypoints"]["AP"] == results["bbox"]["AP"] == pytest.approx(100)
    assert detections.draw(np.zeros((100, 80, 3), np.uint8)).any()


@pytest.mark.parametrize("points", [[1, 2], ["1", 2, 3], 7, [1, 2, 10**400]])
def test_keypoints_that_are_none_are_refused(tmp_path, points):
    image = {"id": 5, "file_name": "a.png", "height": 50, "width": 40}
    truth = {"id": 1, "image_id": 5, "category_id": 3, "bbox": [1, 1, 2, 2], "keypoints": points}
    content = {"images": [image], "annotations": [truth], "categories": [{"id": 3, "name": "x"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(CdlError, match="keypoints"):
        CocoGroundTruth(tmp_path / "a.json", ["x"])


def test_panoptic_segments_are_in_cocos_format():
    infos = (
        {"id": 1, "isthing": True, "category_id": 1, "area": 2},
        {"id": 300, "isthing": False, "category_id": 4, "area": 1},
    )
    segments = torch.tensor([[1, 1, 0, 300]], dtype=torch.int32)
    detections = Detections(
        image_size=(1, 4),
        class_names=("a", "b"),
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0).long(),
        scores=torch.zeros(0),
        panoptic=PanopticSegments(
            stuff=torch.tensor([[0, 0, 4, 4]]).byte(), segments=segments, infos=infos
        ),
    )
    task, saved = DetectionTask(), {}

    def save(folder, pixels):
        saved[folder] = pixels
        return f"{folder}/in/x.png"

    entry = task.to_record(detections, save) | {"file_name": "in/x.png", "id": 7}
    assert saved["labels"].tolist() == [[0, 0, 4, 4]]
    red, green, blue = saved["panoptic"].astype(int).transpose(2, 0, 1)
    assert (red + 256 * green + 65536 * blue).tolist() == segments.tolist()
    categories = [{"id": 3, "name": "a"}, {"id": 9, "name": "b"}]
    content = json.loads(task.format_files([entry], categories)["panoptic.json"])
    (annotation,) = content["annotations"]
    assert (annotation["image_id"], annotation["file_name"]) == (7, "in/x.png")
    named = {each["id"]: each["isthing"] for each in content["categories"]}
    assert [each["category_id"] for each in annotation["segments_info"]] == [9, 13]
    assert named == {3: 1, 9: 1, 13: 0}


def test_what_has_no_place_in_predictions_is_named():
    structures = pytest.importorskip("detectron2.structures", reason="Detectron2 is not installed")
    instances = structures.Instances((9, 9))
    instances.pred_boxes = structures.Boxes(torch.zeros(1, 4))
    instances.scores, instances.pred_classes = torch.ones(1), torch.zeros(1).long()
    instances.pred_densepose = [0]
    backend = get_backend("detectron2")
    with pytest.warns(UserWarning, match="pred_densepose"):
        backend.read_output({"instances": instances})
    instances.remove("pred_densepose")
    instances.pred_boxes = structures.RotatedBoxes(torch.zeros(1, 5))
    with pytest.raises(CdlError, match="5 numbers"):
        backend.read_output({"instances": instances})
