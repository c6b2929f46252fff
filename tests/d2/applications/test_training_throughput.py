import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data import DatasetCatalog, MetadataCatalog

from cdl_d2.d2 import register_dataset
from cdl_d2.d2.applications.training_throughput import SUBSET, time_training
from cdl_d2.errors import CdlError
from tests.conftest import make_coco_dataset
from tests.d2.conftest import small_cfg

NAME = "images to train on"


@pytest.fixture(scope="module", autouse=True)
def data_set(tmp_path_factory):
    sizes = [(64, 80), (80, 64), (64, 64)]
    register_dataset(NAME, *map(str, make_coco_dataset(tmp_path_factory.mktemp("data"), sizes)))
    yield
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def config(kind):
    options = "INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.RANDOM_FLIP", "none", "SOLVER.IMS_PER_BATCH", 2
    options += "MODEL.META_ARCHITECTURE", "CompressedRCNN", "DATASETS.TRAIN", (NAME,)
    return small_cfg(kind, *options)


def test_each_source_trains_and_its_bound_is_the_slower_part():
    rows = time_training(config("latent"), config("pixel"), count=2, workers=0)
    assert len(rows) == len({row["source"] for row in rows}) == 4
    for row in rows:
        assert row["images/s"] > 0
        assert (row["bound by"] == "reading") == (row["reading"] > row["network"])
    assert SUBSET not in DatasetCatalog.list()


def test_too_few_images_and_an_rgb_model_are_rejected():
    for kind, count in (("latent", 1), ("latent", 9), ("pixel", 2)):
        with pytest.raises(CdlError):
            time_training(config(kind), None, count, workers=0)
