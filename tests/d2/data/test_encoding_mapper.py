import json

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from cdl_d2.d2 import build_codec, build_mapper
from cdl_d2.d2.data.encoding_mapper import EncodingMapper
from cdl_d2.d2.data.image_mapper import ImageMapper
from cdl_d2.seeds import seeded
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


def cfg_with(source: str):
    return small_cfg("latent", *PLAIN, "INPUT.LATENT_SOURCE", source, "INPUT.RANDOM_FLIP", "none")


def test_model_and_mapper_give_the_same_latent_and_detections(record):
    model = small_model(cfg_with("model")).eval()
    by_model = model.encode([build_mapper(cfg_with("model"), is_train=False)(record)])[0]
    by_mapper = build_mapper(cfg_with("mapper"), is_train=False)(record)
    assert torch.equal(by_mapper["latent"], by_model["latent"])
    assert by_mapper["bits"] == by_model["bits"]
    assert torch.equal(by_mapper["image"], by_model["image"])
    scores = [model([item])[0]["instances"].scores for item in (by_model, by_mapper)]
    assert torch.equal(*scores)


def test_a_quality_is_drawn_by_the_place_in_the_order_of_training(record):
    cfg = cfg_with("mapper")
    cfg.MODEL.CODEC.QUALITIES = [0, 1, 2]
    mapper = build_mapper(cfg, is_train=True)

    def draw_quality(seed):
        with seeded(0, seed):
            return mapper(record)["codec_identity"].quality

    qualities = [draw_quality(seed) for seed in range(6)]
    assert qualities == [draw_quality(seed) for seed in range(6)]
    assert len({*qualities}) > 1
    assert build_mapper(cfg, is_train=False)(record)["codec_identity"].quality == 2


def test_sizes_are_estimated_in_training_for_a_gate_only(record):
    gate = cfg_with("mapper")
    gate.MODEL.SELECTION.KIND = "gate"
    items = [build_mapper(cfg, is_train=True)(record) for cfg in (cfg_with("mapper"), gate)]
    assert ["bits" in item for item in items] == [False, True]
    assert torch.equal(items[0]["latent"], items[1]["latent"])
    model, images = small_model(cfg_with("model")), [{"image": items[0]["image"]}]
    assert "bits" not in model.train().encode(images)[0]
    assert "bits" in model.eval().encode(images)[0]
    gate.INPUT.LATENT_SOURCE = "model"
    assert "channel_bits" in small_model(gate).train().encode(images)[0]


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


def test_detectron2s_mapper_is_used_where_nothing_needs_encoding():
    assert type(build_mapper(cfg_with("model"), is_train=True)) is ImageMapper
    assert type(build_mapper(cfg_with("mapper"), is_train=True)) is EncodingMapper
    image = small_cfg("pixel", "INPUT.LATENT_SOURCE", "mapper")
    assert type(build_mapper(image, is_train=True)) is ImageMapper


def test_a_wrong_source_is_named():
    with pytest.raises(ValueError, match="LATENT_SOURCE 'disk'"):
        build_mapper(cfg_with("disk"), is_train=True)
