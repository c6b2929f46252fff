import json

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data import DatasetMapper

from cdl_d2.d2 import LatentDatasetMapper, build_codec, build_mapper
from cdl_d2.data import save_latent
from tests.d2.conftest import small_cfg, small_model

PLAIN = ("MODEL.META_ARCHITECTURE", "CompressedRCNN")


@pytest.fixture
def record(coco_dataset):
    annotations, images = coco_dataset
    info = json.loads(annotations.read_text())["images"][0]
    return {
        "file_name": str(images / info["file_name"]),
        "height": info["height"],
        "width": info["width"],
        "image_id": 0,
        "annotations": [
            {
                "bbox": [10, 10, 30, 20],
                "bbox_mode": 1,
                "category_id": 0,
                "segmentation": [[10, 10, 40, 10, 40, 30, 10, 30]],
            }
        ],
    }


def cfg_with(source: str, **changes):
    cfg = small_cfg("latent", *PLAIN, "INPUT.LATENT_SOURCE", source, "INPUT.RANDOM_FLIP", "none")
    cfg.INPUT.LATENT_STORE = changes.get("store", "")
    return cfg


def test_model_mapper_and_store_give_the_same_latent_and_detections(record, tmp_path):
    model = small_model(cfg_with("model")).eval()
    by_model = model.encode([build_mapper(cfg_with("model"), is_train=True)(record)])[0]

    cfg = cfg_with("mapper")
    by_mapper = build_mapper(cfg, is_train=True)(record)

    pixels = DatasetMapper(cfg, is_train=True)(record)["image"].flip(0).float() / 255
    codec = build_codec(cfg)
    save_latent(tmp_path / "000.safetensors", codec.encode(pixels), codec.identity)
    stored = build_mapper(cfg_with("store", store=str(tmp_path)), is_train=True)(record)

    for other in (by_mapper, stored):
        assert torch.equal(other["latent"], by_model["latent"])
        assert other["bits"] == by_model["bits"]
        assert torch.equal(other["image"], by_model["image"])
        ours, theirs = by_model["instances"].gt_boxes, other["instances"].gt_boxes
        assert torch.equal(ours.tensor, theirs.tensor)
        found = [model([item])[0]["instances"].scores for item in (by_model, other)]
        assert torch.equal(*found)


def test_the_latent_follows_the_augmented_image(record):
    cfg = cfg_with("mapper")
    cfg.INPUT.RANDOM_FLIP, cfg.INPUT.MIN_SIZE_TRAIN = "horizontal", (64,)
    mapper = build_mapper(cfg, is_train=True)
    codec = build_codec(cfg)
    for _ in range(3):
        item = mapper(record)
        expected = codec.encode(item["image"].flip(0).float() / 255)
        assert torch.equal(item["latent"], expected.cells)
        assert item["image_size"] == tuple(item["image"].shape[1:])


def test_a_stock_mapper_is_used_where_nothing_needs_encoding():
    assert type(build_mapper(cfg_with("model"), is_train=True)) is DatasetMapper
    assert type(build_mapper(cfg_with("mapper"), is_train=True)) is LatentDatasetMapper
    image = small_cfg("pixel", "INPUT.LATENT_SOURCE", "mapper")
    assert type(build_mapper(image, is_train=True)) is DatasetMapper


def test_a_latent_of_another_picture_is_refused(record, tmp_path):
    codec = build_codec(cfg_with("store"))
    save_latent(tmp_path / "000.safetensors", codec.encode(torch.rand(3, 96, 96)), codec.identity)
    with pytest.raises(ValueError, match="file names must be unique"):
        build_mapper(cfg_with("store", store=str(tmp_path)), is_train=True)(record)


def test_a_wrong_source_or_store_is_named(record, tmp_path):
    with pytest.raises(ValueError, match="LATENT_SOURCE 'disk'"):
        build_mapper(cfg_with("disk"), is_train=True)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        build_mapper(cfg_with("store", store=str(tmp_path / "none")), is_train=True)
    with pytest.raises(FileNotFoundError, match="no latent file"):
        build_mapper(cfg_with("store", store=str(tmp_path)), is_train=True)(record)
