"""Detectron2's evaluator gives pycocotools' average precision of a clean copy, for any file."""

import json
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances

from cdl_d2.d2.evaluation.dataset_evaluators import build_dataset_evaluator
from tests.coco_files import MESSES, SIZE, clean_file, detections_of, pycocotools_ap

NAME = "messy"
KEYS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def evaluated(content, results, folder):
    """`bbox` and `segm` of results, by the data set's evaluator."""
    (folder / "messy.json").write_text(json.dumps(content))
    register_coco_instances(NAME, {}, str(folder / "messy.json"), str(folder))
    try:
        evaluator = build_dataset_evaluator(NAME, str(folder))
        evaluator.reset()
        DatasetCatalog.get(NAME)  # says which place a category has
        labels = MetadataCatalog.get(NAME).thing_dataset_id_to_contiguous_id
        for image_id in (1, 2):
            there = [entry for entry in results if entry["image_id"] == image_id]
            objects = Instances(SIZE)
            boxes = torch.tensor([e["bbox"] for e in there], dtype=torch.float64).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            objects.pred_boxes = Boxes(boxes)
            objects.pred_boxes.tensor = boxes
            objects.scores = torch.tensor([e["score"] for e in there], dtype=torch.float64)
            objects.pred_classes = torch.tensor([labels[e["category_id"]] for e in there])
            masks = [torch.from_numpy(coco_mask.decode(e["segmentation"])) for e in there]
            objects.pred_masks = torch.stack(masks).bool() if masks else torch.zeros(0, *SIZE)
            evaluator.process([{"image_id": image_id}], [{"instances": objects}])
        return evaluator.evaluate()
    finally:
        DatasetCatalog.pop(NAME)
        MetadataCatalog.pop(NAME)


@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(
    names=st.lists(st.sampled_from(sorted(MESSES)), max_size=4, unique=True),
    seed=st.integers(0, 9),
)
def test_the_precision_of_a_messy_file_is_that_of_a_clean_copy(tmp_path_factory, names, seed):
    clean, messy = clean_file(seed), clean_file(seed)
    results = detections_of(clean, seed)
    for name in names:
        MESSES[name](messy, Random(seed))
    values = evaluated(messy, results, tmp_path_factory.mktemp("messy"))
    for task in ("bbox", "segm"):
        precisions = [values[task][key] for key in KEYS]
        expected = pycocotools_ap(clean, results, task)
        assert [None if v != v else v for v in precisions] == expected


def test_masks_are_evaluated_if_an_object_has_one(tmp_path):
    content = clean_file()
    results = detections_of(content)
    del content["annotations"][5]["segmentation"]
    assert evaluated(content, results, tmp_path)["segm"]["AP"] > 0
    for entry in content["annotations"]:
        entry["segmentation"] = [[]]
    assert evaluated(content, results, tmp_path).keys() == {"bbox"}


def test_nothing_found_is_a_precision_of_zero(tmp_path):
    assert evaluated(clean_file(), [], tmp_path)["bbox"]["AP"] == 0
