import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from cdl_d2.data.datasets.coco import read_coco
from cdl_d2.data.datasets.synthetic import SHAPES, WRITERS, render_scene


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("task", WRITERS)
def test_a_seed_gives_the_same_files_and_another_seed_others(tmp_path, task):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        list(WRITERS[task](tmp_path / name, 5, (48, 64), seed))
    assert files(tmp_path / "a") == files(tmp_path / "b") != files(tmp_path / "c")


def test_an_image_does_not_depend_on_the_number_of_images(tmp_path):
    list(WRITERS["detection"](tmp_path / "few", 2, (48, 64)))
    list(WRITERS["detection"](tmp_path / "many", 4, (48, 64)))
    for path, content in files(tmp_path / "few" / "images").items():
        assert (tmp_path / "many" / "images" / path).read_bytes() == content


def test_masks_are_disjoint_and_visible():
    for seed in range(20):
        scene = render_scene(np.random.default_rng(seed), 96, 128, objects=(3, 6))
        total = np.sum([mask.astype(int) for mask in scene.masks], axis=0)
        assert total.max() == 1
        assert min(mask.sum() for mask in scene.masks) > 50
        assert scene.image.shape == (96, 128, 3)


def test_detection_data_is_coco_format(tmp_path):
    list(WRITERS["detection"](tmp_path, 6, (64, 80)))
    content = read_coco(tmp_path / "annotations.json")
    assert [c["name"] for c in content["categories"]] == list(SHAPES)
    for entry in content["annotations"]:
        mask = coco_mask.decode(entry["segmentation"])
        rows, columns = np.nonzero(mask)
        left, top, width, height = entry["bbox"]
        assert (left, top) == (columns.min(), rows.min())
        assert (width, height) == (np.ptp(columns) + 1, np.ptp(rows) + 1)
        assert entry["area"] == mask.sum()


def test_segmentation_labels_are_those_of_the_detection_masks(tmp_path):
    list(WRITERS["detection"](tmp_path / "d", 3, (64, 80)))
    list(WRITERS["segmentation"](tmp_path / "s", 3, (64, 80)))
    content = json.loads((tmp_path / "d" / "annotations.json").read_text())
    labels = [np.array(Image.open(p)) for p in sorted((tmp_path / "s" / "labels").iterdir())]
    assert {p.name for p in (tmp_path / "s" / "images").iterdir()} == {
        p.name for p in (tmp_path / "s" / "labels").iterdir()
    }
    for entry in content["annotations"]:
        mask = coco_mask.decode(entry["segmentation"]).astype(bool)
        assert (labels[entry["image_id"]][mask] == entry["category_id"]).all()


def test_classes_have_a_folder_each_and_equally_many_images(tmp_path):
    list(WRITERS["classification"](tmp_path, 10, (48, 48)))
    assert {p.name: len(list(p.iterdir())) for p in tmp_path.iterdir()} == dict.fromkeys(SHAPES, 2)


@pytest.mark.parametrize(("count", "size"), [(0, (64, 64)), (1, (16, 64))])
def test_wrong_counts_and_sizes_are_errors(tmp_path, count, size):
    with pytest.raises(ValueError):
        list(WRITERS["detection"](tmp_path, count, size))
    assert not (tmp_path / "annotations.json").exists()
