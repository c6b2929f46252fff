import pickle
from itertools import islice
from multiprocessing.reduction import ForkingPickler

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_train_loader

from cdl_d2.d2 import build_mapper, register_dataset
from cdl_d2.d2.config_files import read_config
from cdl_d2.d2.data.training_loader import TrainingLoader, _SeededItems
from tests.conftest import make_coco_dataset
from tests.d2.conftest import small_cfg
from tests.tv.conftest import CODEC

NAME = "boxes in an order"


@pytest.fixture(scope="module", autouse=True)
def data_set(tmp_path_factory):
    sizes = [(48, 64), (64, 48)] * 5
    register_dataset(NAME, *map(str, make_coco_dataset(tmp_path_factory.mktemp("data"), sizes)))
    yield
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def cfg_with(*options):
    small = ["DATASETS.TRAIN", (NAME,), "SEED", 4, "INPUT.MIN_SIZE_TRAIN", (32, 48, 64)]
    return small_cfg("pixel", *small, *options)


def batches(cfg, count, start=0, seed=4):
    loader = TrainingLoader(cfg, build_mapper(cfg, is_train=True))
    loader.start_at(start, seed)
    return [[(i["file_name"], i["image"]) for i in batch] for batch in islice(loader, count)]


def same(first, second):
    pairs = [(a, b) for batch_a, batch_b in zip(first, second, strict=True)
             for a, b in zip(batch_a, batch_b, strict=True)]  # fmt: skip
    return all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in pairs)


@pytest.mark.parametrize("grouping", [False, True])
@pytest.mark.parametrize(
    "sampler", ["TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler"]
)
def test_a_batch_follows_from_its_number_and_the_seed(sampler, grouping):
    options = "DATALOADER.ASPECT_RATIO_GROUPING", grouping, "DATALOADER.SAMPLER_TRAIN", sampler
    cfg = cfg_with(*options)
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.7  # Detectron2 does not declare it
    expected = batches(cfg, 12)
    assert same(batches(cfg, 5, start=7), expected[7:])
    assert not same(batches(cfg, 12, seed=5), expected)


@pytest.mark.parametrize("start_method", ["fork", "forkserver"], indirect=True)  # spawn is slow
def test_workers_change_nothing(start_method):
    expected = batches(cfg_with(), 8)
    workers = 2 if start_method == "fork" else 1
    assert same(batches(cfg_with("DATALOADER.NUM_WORKERS", workers), 5, start=3), expected[3:])


@pytest.mark.parametrize("source", ["model", "mapper"])
@pytest.mark.parametrize(
    "config",
    [
        "detection/small/latent_mask_rcnn_small.yaml",
        "segmentation/small/latent_deeplab_small.yaml",
        "classification/small/latent_resnet_small.yaml",
        "multitask/small/latent_multitask_small.yaml",
    ],
)
@pytest.mark.parametrize("is_train", [True, False])
def test_every_mapper_can_be_sent_to_another_process(config, source, is_train):
    codec = ["MODEL.CODEC.NAME", CODEC.name, "MODEL.CODEC.QUALITY", CODEC.quality]
    cfg = read_config(config, ["INPUT.LATENT_SOURCE", source, "MODEL.DEVICE", "cpu", *codec])
    items = _SeededItems([], build_mapper(cfg, is_train))
    assert pickle.loads(ForkingPickler.dumps(items)).__dict__.keys() == items.__dict__.keys()


@pytest.mark.parametrize("grouping", [False, True])
def test_the_order_is_that_of_detectron2(grouping):
    cfg = cfg_with("DATALOADER.ASPECT_RATIO_GROUPING", grouping)
    loader = build_detection_train_loader(cfg, mapper=lambda record: record)
    names = [[item["file_name"] for item in batch] for batch in islice(loader, 12)]
    assert [[name for name, _ in batch] for batch in batches(cfg, 12)] == names
