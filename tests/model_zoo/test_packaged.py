"""The trained models that come with the package, on images like those of their cards' data."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torchvision.ops import box_iou

from cdl_d2 import Predictor, model_zoo
from cdl_d2.data.datasets.coco import read_coco
from cdl_d2.data.datasets.synthetic import write_detection
from cdl_d2.errors import CdlError
from cdl_d2.model_zoo.catalog import PACKAGED_CARDS
from cdl_d2.packaged import SAMPLES
from cdl_d2.prediction.results import THRESHOLD

NAMES = sorted(path.stem for path in PACKAGED_CARDS.glob("*.yaml"))
IMAGES = 4


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Folders of images and annotations, by the first word of the name of a card's data."""
    shapes = tmp_path_factory.mktemp("shapes")
    list(write_detection(shapes, IMAGES, seed=1))
    return {"synthetic": shapes, "nuclei": SAMPLES / "nuclei"}


def samples_of(card, samples):
    """Yield some images with their annotations, and the labels of these."""
    folder = samples[card.data.name.split()[0]]
    content = read_coco(folder / "annotations.json")
    classes = {each["id"]: card.classes.index(each["name"]) for each in content["categories"]}
    for image in content["images"][:IMAGES]:
        marked = [each for each in content["annotations"] if each["image_id"] == image["id"]]
        labels = torch.tensor([classes[each["category_id"]] for each in marked])
        yield folder / "images" / image["file_name"], image, marked, labels


def finds_the_boxes(predictor, card, samples):
    overlaps, count = [], 0
    for path, _, marked, labels in samples_of(card, samples):
        prediction = predictor(path)
        sure = prediction.scores >= THRESHOLD
        boxes = torch.tensor([each["bbox"] for each in marked])
        boxes[:, 2:] += boxes[:, :2]
        same = labels[:, None] == prediction.labels[sure]
        overlaps.append((box_iou(boxes, prediction.boxes[sure]) * same).max(1).values)
        count += int(sure.sum())
    overlap = torch.cat(overlaps)
    assert 0.5 * len(overlap) <= count <= 1.5 * len(overlap)
    assert overlap.mean() > 0.5  # of each object with its best detection


def finds_the_pixels(predictor, card, samples):
    shared, either = 0, 0
    for path, image, marked, labels in samples_of(card, samples):
        truth = np.zeros((image["height"], image["width"]), dtype=int)
        for each, label in zip(marked, labels.tolist(), strict=True):
            truth[coco_mask.decode(each["segmentation"]) > 0] = label
        prediction = predictor(path).segmentation.numpy()
        shared += ((prediction == truth) & (truth > 0)).sum()
        either += ((prediction > 0) | (truth > 0)).sum()
    assert shared / either > 0.5


def finds_the_class(predictor, card, samples):
    matplotlib = pytest.importorskip("matplotlib")
    portrait = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
    best = predictor(portrait).probabilities.topk(5).indices
    assert "military uniform" in [card.classes[index] for index in best]


def test_a_folder_of_something_else_hides_no_model_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = next(n for n in NAMES if model_zoo.card(n).backend != "detectron2")
    (tmp_path / name).mkdir()
    assert Predictor.load(name, "cpu").model.card.name == name
    (tmp_path / name / "config.yaml").touch()  # of a training that has not ended
    with pytest.raises((CdlError, OSError)):
        Predictor.load(name, "cpu")


@pytest.mark.parametrize("name", NAMES)
def test_a_packaged_model_is_small_and_finds_what_people_marked(name, samples):
    card = model_zoo.card(name)
    assert card.name == name and card.weights.bytes < 6_000_000
    assert card.metrics and card.command and card.data.licence
    if card.backend == "detectron2" and not importlib.util.find_spec("detectron2"):
        pytest.skip("Detectron2 is not installed")
    predictor = Predictor.load(name, "cpu")
    assert predictor.model.class_names == tuple(card.classes)
    looks = {"detection": finds_the_boxes, "segmentation": finds_the_pixels}
    looks["classification"] = finds_the_class
    looks[card.task](predictor, card, samples)
