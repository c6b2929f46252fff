import json

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data import DatasetCatalog, MetadataCatalog

from cdl_d2.d2 import check_datasets, register_dataset
from tests.d2.conftest import small_cfg


@pytest.fixture
def registered(coco_dataset):
    """Registers the data set, changed in some way, as `changed`."""

    def register(change):
        annotations, images = coco_dataset
        content = json.loads(annotations.read_text())
        change(content)
        annotations.write_text(json.dumps(content))
        register_dataset("changed", str(annotations), str(images))

    yield register
    DatasetCatalog.remove("changed")
    MetadataCatalog.remove("changed")


def test_masks_that_are_missing_are_named_before_training(registered):
    registered(lambda content: content["annotations"][1].pop("segmentation"))
    cfg = small_cfg("latent", "DATASETS.TRAIN", ("changed",))
    with pytest.raises(ValueError, match=r"no mask for annotation 2.*MASK_ON"):
        check_datasets(cfg)
    cfg.MODEL.MASK_ON = False
    check_datasets(cfg)


def test_another_number_of_classes_is_named(registered):
    registered(lambda content: content["categories"].append({"id": 3, "name": "third"}))
    with pytest.raises(ValueError, match=r"has 3 classes: set MODEL\.ROI_HEADS\.NUM_CLASSES"):
        check_datasets(small_cfg("latent", "DATASETS.TRAIN", ("changed",)))


def test_an_unknown_data_set_is_named_with_how_to_register_it():
    with pytest.raises(ValueError, match=r"nowhere is not known.*--register nowhere"):
        check_datasets(small_cfg("latent", "DATASETS.TEST", ("nowhere",)))
