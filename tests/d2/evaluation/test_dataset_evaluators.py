"""Each data set has the evaluator that Detectron2 means for it: perfect answers are perfect."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import (
    register_coco_instances,
    register_lvis_instances,
    register_pascal_voc,
)
from detectron2.evaluation import LVISEvaluator
from detectron2.structures import Boxes, BoxMode, Instances, polygons_to_bitmask

from cdl_d2.d2.evaluation.dataset_evaluators import build_dataset_evaluator, check_evaluator
from cdl_d2.errors import CdlError, MissingPackageError
from tests.commands import output_of, refused
from tests.d2.conftest import SMALL
from tests.voc import write_voc

NAME = "evaluated"
PETS = [["cat", "dog"], ["dog"], [], ["cat"]]


@pytest.fixture
def forgotten():
    yield
    DatasetCatalog.pop(NAME, None)
    MetadataCatalog.pop(NAME, None)


def write_cityscapes(folder):
    """One image of Cityscapes' layout: a car and a person."""
    (folder / "gtFine/aachen").mkdir(parents=True)
    ids = np.zeros((64, 96), np.uint16)
    ids[10:50, 10:40], ids[10:50, 50:80] = 26000, 24000
    stem = "aachen_000000_000019"
    Image.fromarray(ids).save(folder / "gtFine/aachen" / f"{stem}_gtFine_instanceIds.png")
    masks = torch.from_numpy(np.stack([ids == 26000, ids == 24000]))
    MetadataCatalog.get(NAME).set(
        thing_classes=["person", "car"],
        gt_dir=str(folder / "gtFine"),
        evaluator_type="cityscapes_instance",
    )
    record = {"file_name": f"{stem}_leftImg8bit.png", "image_id": stem}
    instances = Instances((64, 96))
    instances.pred_masks, instances.pred_classes = masks, torch.tensor([1, 0])
    instances.scores = torch.ones(2)
    return [record], [{"instances": instances}]


def perfect_answers():
    """Return the records of the registered data set and a perfect detector's outputs."""
    records, outputs = DatasetCatalog.get(NAME), []
    for record in records:
        size = record["height"], record["width"]
        objects = [a for a in record["annotations"] if not a.get("iscrowd")]
        instances, corners = Instances(size), BoxMode.XYXY_ABS
        boxes = [BoxMode.convert(o["bbox"], o["bbox_mode"], corners) for o in objects]
        instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
        instances.pred_classes = torch.tensor([o["category_id"] for o in objects], dtype=torch.long)
        instances.scores = torch.ones(len(objects))
        shapes = [o.get("segmentation") for o in objects]
        if None not in shapes:
            masks = [polygons_to_bitmask(shape, *size) for shape in shapes]
            instances.pred_masks = torch.from_numpy(np.array(masks).reshape(-1, *size))
        outputs.append({"instances": instances})
    return records, outputs


def results_of(records, outputs, folder, kinds=("instances", "masks")):
    evaluator = build_dataset_evaluator(NAME, str(folder), kinds)
    evaluator.reset()
    evaluator.process(records, outputs)
    return evaluator.evaluate()


def test_coco(coco_dataset, forgotten, tmp_path):
    register_coco_instances(NAME, {}, *map(str, coco_dataset))
    results = results_of(*perfect_answers(), tmp_path)
    assert [results[kind]["AP"] for kind in ("bbox", "segm")] == pytest.approx([100, 100])


def test_voc(forgotten, tmp_path):
    write_voc(tmp_path / "voc", PETS)
    register_pascal_voc(NAME, str(tmp_path / "voc"), "val", 2012, ["cat", "dog"])
    MetadataCatalog.get(NAME).evaluator_type = "pascal_voc"
    assert results_of(*perfect_answers(), tmp_path)["bbox"]["AP"] == pytest.approx(100)


def test_a_class_without_an_object_leaves_the_average_of_voc_alone(forgotten, tmp_path):
    write_voc(tmp_path / "voc", PETS)
    register_pascal_voc(NAME, str(tmp_path / "voc"), "val", 2007, ["bird", "cat", "dog", "cow"])
    MetadataCatalog.get(NAME).evaluator_type = "pascal_voc"
    records, outputs = perfect_answers()
    assert results_of(records, outputs, tmp_path)["bbox"]["AP"] == pytest.approx(100)
    for output in outputs:
        instances = output["instances"]
        instances.pred_classes[instances.pred_classes == 2] = 1  # dogs that are called cats
    assert results_of(records, outputs, tmp_path)["bbox"]["AP"] < 60


def test_cityscapes_instances(forgotten, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # its script leaves a file
    pytest.importorskip("cityscapesscripts", reason="cityscapesscripts is not installed")
    answers = write_cityscapes(tmp_path)
    results = results_of(*answers, tmp_path)
    assert results["segm"]["AP50"] == pytest.approx(100)
    with pytest.raises(CdlError, match="masks"):  # a detector of boxes has none
        results_of(*answers, tmp_path, ["instances"])


def test_lvis(coco_dataset, forgotten, tmp_path):
    pytest.importorskip("lvis", reason="lvis is not installed")
    register_lvis_instances(NAME, {}, *map(str, coco_dataset))
    assert isinstance(build_dataset_evaluator(NAME, str(tmp_path)), LVISEvaluator)


@pytest.mark.parametrize(
    ("kind", "package", "outputs"),
    [("lvis", "lvis", ["instances"]), ("coco_panoptic_seg", "panopticapi", ["panoptic_seg"])],
)
def test_a_package_that_is_missing_is_named_before_training(
    forgotten, monkeypatch, kind, package, outputs
):
    monkeypatch.setitem(sys.modules, package, None)
    MetadataCatalog.get(NAME).evaluator_type = kind
    with pytest.raises(MissingPackageError, match=f"{package}.*pip install"):
        check_evaluator(NAME, outputs)


@pytest.mark.parametrize(
    ("kind", "outputs"), [("nothing", ["instances"]), ("sem_seg", ["instances"])]
)
def test_a_data_set_that_cannot_be_evaluated_is_one_error(forgotten, kind, outputs):
    MetadataCatalog.get(NAME).evaluator_type = kind
    with pytest.raises(CdlError, match=kind):
        check_evaluator(NAME, outputs)


def test_a_detector_of_boxes_is_trained_and_evaluated_on_voc(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_voc(tmp_path / "datasets/VOC2007", PETS)
    words = ["train", "--config-file", "detection/small/latent_mask_rcnn_small.yaml", *SMALL]
    words += ["MODEL.META_ARCHITECTURE", "CompressedRCNN", "MODEL.ROI_HEADS.NUM_CLASSES", 20]
    words += ["SOLVER.MAX_ITER", 1, "SOLVER.STEPS", "()", "OUTPUT_DIR", "out"]
    words += ["DATASETS.TRAIN", "('voc_2007_train',)", "DATASETS.TEST", "('voc_2007_val',)"]
    assert "MODEL.MASK_ON False" in refused(*words)
    output_of(*words, "MODEL.MASK_ON", False)
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["bbox"].keys() == {"AP", "AP50", "AP75"} and results["rate"]["bpp"] > 0
