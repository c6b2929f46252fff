import json

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

import detectron2.data.transforms as T
from detectron2.data import DatasetMapper
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNNWithTTA

from cdl_d2.codec.io.image_files import read_image
from cdl_d2.d2 import CompressedRCNN, build_codec, build_mapper
from cdl_d2.d2.data.store_mapper import list_variants
from cdl_d2.data import LatentStore, Plan, Variant
from cdl_d2.data.datasets.synthetic import write_segmentation
from cdl_d2.data.store.encoding import encode_shards
from cdl_d2.data.store.latent_store import close_store
from tests.d2.conftest import small_cfg, small_model
from tests.d2.modeling import test_segmentor

TRAIN_SIZES = (64, 96)


def cfg_with(*options):
    cfg = small_cfg("latent", "MODEL.META_ARCHITECTURE", "CompressedRCNN")
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = TRAIN_SIZES, 110
    cfg.INPUT.MAX_SIZE_TEST = 110
    cfg.merge_from_list(list(options))
    return cfg


@pytest.fixture
def records(coco_dataset):
    annotations, images = coco_dataset
    content = json.loads(annotations.read_text())
    return [
        {
            "file_name": str(images / info["file_name"]),
            "height": info["height"],
            "width": info["width"],
            "image_id": info["id"],
            "annotations": [
                {
                    "bbox": a["bbox"],
                    "bbox_mode": 1,
                    "category_id": 0,
                    "segmentation": a["segmentation"],
                }
                for a in content["annotations"]
                if a["image_id"] == info["id"] and not a["iscrowd"]
            ],
        }
        for info in content["images"]
    ]


@pytest.fixture(params=["arrays", "bitstreams"])
def store(request, coco_dataset, tmp_path):
    cfg, images = cfg_with(), coco_dataset[1]
    codec = build_codec(cfg)
    variants = tuple({*list_variants(cfg, True), *list_variants(cfg, False)})
    names = tuple(sorted(p.name for p in images.iterdir()))
    plan = Plan(codec.identity, request.param, variants, names, shard_size=3)
    plan.save(tmp_path / "store")
    assert not any(
        e.error for e in encode_shards(codec, plan, images, tmp_path / "store", range(2), 0)
    )
    assert close_store(tmp_path / "store", plan) == {}
    return str(tmp_path / "store")


def from_store(store, *options):
    places = ("INPUT.LATENT_STORE_TRAIN", store, "INPUT.LATENT_STORE_TEST", store)
    return cfg_with("INPUT.LATENT_SOURCE", "store", *places, *options)


def test_label_maps_follow_the_stored_variant(tmp_path):
    list(write_segmentation(tmp_path, 2, (80, 96)))
    cfg = test_segmentor.tiny_cfg("latent")
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (64,), "horizontal"
    codec, folder = build_codec(cfg), tmp_path / "store"
    names = tuple(sorted(p.name for p in (tmp_path / "images").iterdir()))
    plan = Plan(codec.identity, "arrays", tuple(list_variants(cfg, True)), names)
    plan.save(folder)
    list(encode_shards(codec, plan, tmp_path / "images", folder, range(1), 0))
    close_store(folder, plan)
    cfg.merge_from_list(["INPUT.LATENT_SOURCE", "store", "INPUT.LATENT_STORE_TRAIN", str(folder)])
    mapper, flips = build_mapper(cfg, is_train=True), set()
    for _ in range(20):
        name = tmp_path / "images" / names[0]
        labels = tmp_path / "labels" / names[0].replace(name.suffix, ".png")
        item = mapper({"file_name": str(name), "sem_seg_file_name": str(labels)})
        model = test_segmentor.tiny_model(cfg).eval()
        whole = model.encode([{"image": item["image"]}])[0]
        assert torch.equal(item["latent"], whole["latent"])
        expected = T.ResizeTransform(80, 96, *item["image_size"]).apply_segmentation(
            np.asarray(Image.open(labels))
        )
        straight = Variant(64, cfg.INPUT.MAX_SIZE_TRAIN).apply(read_image(name))
        same = torch.equal(item["image"], straight)
        assert same or torch.equal(item["image"], straight.flip(2))
        assert np.array_equal(item["sem_seg"].numpy(), expected[:, :: 1 if same else -1])
        flips.add(same)
    assert flips == {False, True}


def test_bitstreams_have_the_positions_around_an_image_and_arrays_do_not(store, records):
    options = "INPUT.MIN_SIZE_TEST", 96, "MODEL.BRIDGE.MARGIN", True
    stored = build_mapper(from_store(store, *options), is_train=False)
    encoded = build_mapper(cfg_with("INPUT.LATENT_SOURCE", "mapper", *options), is_train=False)
    beyond = []
    for record in records:
        latent, whole = (mapper(dict(record))["latent"] for mapper in (stored, encoded))
        rows, columns = latent.shape[1:]
        assert torch.allclose(latent, whole[:, :rows, :columns], atol=1e-3)
        beyond.append(whole.shape[1:] != latent.shape[1:])
    has_bitstreams = LatentStore(store, build_codec(cfg_with())).plan.form == "bitstreams"
    assert any(beyond) != has_bitstreams


def test_evaluation_agrees_with_encoding_on_the_fly_and_reads_no_image(store, records):
    model = small_model(cfg_with()).eval()
    for record in records:
        stored = build_mapper(from_store(store), is_train=False)(record)
        on_the_fly = model.encode([build_mapper(cfg_with(), is_train=False)(record)])[0]
        assert "image" not in stored
        assert torch.equal(stored["latent"], on_the_fly["latent"])
        assert stored["bits"] == pytest.approx(on_the_fly["bits"], rel=0.1, abs=800)
        instances = [model([item])[0]["instances"] for item in (stored, on_the_fly)]
        assert torch.equal(instances[0].scores, instances[1].scores)
        assert torch.equal(instances[0].pred_boxes.tensor, instances[1].pred_boxes.tensor)


def test_training_items_are_those_of_one_of_the_augmentations(store, records):
    options = ("MODEL.META_ARCHITECTURE", "TransferRCNN")  # whose teacher sees the image
    cfg, record = from_store(store, *options), records[0]
    codec, mapper = build_codec(cfg), build_mapper(cfg, is_train=True)
    seen = set()
    for _ in range(40):
        item = mapper(record)
        expected = codec.encode(item["image"].flip(0).float() / 255)
        assert torch.equal(item["latent"], expected.cells)
        for edge in TRAIN_SIZES:
            for flip in (0.0, 1.0):
                augmentations = [T.ResizeShortestEdge(edge, 110), T.RandomFlip(prob=flip)]
                encoded = DatasetMapper(cfg, True, augmentations=augmentations)(record)
                if torch.equal(encoded["image"], item["image"]):
                    seen.add((edge, flip))
                    instances = item["instances"]
                    expected = encoded["instances"]
                    assert torch.equal(instances.gt_boxes.tensor, expected.gt_boxes.tensor)
                    assert instances.image_size == expected.image_size
    assert len(seen) == 4


@META_ARCH_REGISTRY.register()
class OwnTeaching(CompressedRCNN):
    """A user's, with a teacher of another make."""

    @classmethod
    def needs_image(cls, cfg):
        return cfg.SEED == 5


@pytest.mark.parametrize(
    ("options", "has_image"),
    [
        (("MODEL.META_ARCHITECTURE", "TransferRCNN"), True),
        (("MODEL.META_ARCHITECTURE", "TransferRCNN", "MODEL.TRANSFER.WEIGHT", 0.0), False),
        (("MODEL.META_ARCHITECTURE", "OwnTeaching", "SEED", 5), True),
        (("MODEL.META_ARCHITECTURE", "OwnTeaching"), False),
    ],
)
def test_the_model_says_whether_it_trains_on_images_too(store, records, options, has_image):
    item = build_mapper(from_store(store, *options), is_train=True)(records[0])
    assert ("image" in item) == has_image


def test_a_model_trains_from_a_store_without_images(store, records, storage):
    cfg = from_store(store)
    model, mapper = small_model(cfg).train(), build_mapper(cfg, is_train=True)
    items = [mapper(record) for record in records]
    assert all("image" not in item for item in items)
    sum(model(items[:2]).values()).backward()


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (37, 500), (100, 100), (427, 641)])
@pytest.mark.parametrize("edge", [0, 64, 640])
def test_a_variant_has_the_size_and_pixels_of_detectron2s_augmentation(size, edge):
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    array = image.movedim(0, -1).numpy()
    expected = T.ResizeShortestEdge(edge, 700).get_transform(array).apply_image(array)
    resized = Variant(edge, 700).apply(image)
    assert torch.equal(resized.movedim(0, -1), torch.from_numpy(expected.copy()))


def test_a_store_without_a_size_of_the_config_is_refused(store):
    cfg = from_store(store, "INPUT.MIN_SIZE_TEST", 80)
    with pytest.raises(ValueError, match=r"has .*short edge 96.*but not short edge 80"):
        build_mapper(cfg, is_train=False)


def test_a_store_of_another_codec_is_refused(store):
    with pytest.raises(ValueError, match=r"quality 2 .* quality 1"):
        build_mapper(from_store(store, "MODEL.CODEC.QUALITY", 1), is_train=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("INPUT.CROP.ENABLED", True), "INPUT.CROP.ENABLED False"),
        (("INPUT.RANDOM_FLIP", "vertical"), "RANDOM_FLIP 'vertical'"),
        (("INPUT.LATENT_STORE_TRAIN", ""), r"set INPUT\.LATENT_STORE_TRAIN"),
        (("INPUT.DOMAIN", "reconstruction"), "not domain 'reconstruction'"),
    ],
)
def test_a_config_that_a_store_cannot_serve_is_named(store, options, message):
    with pytest.raises(ValueError, match=message):
        build_mapper(from_store(store, *options), is_train=True)


def test_another_image_of_the_same_name_is_noticed(store, records):
    record = {**records[0], "height": 10, "width": 500}
    with pytest.raises(ValueError, match="is it another"):
        build_mapper(from_store(store), is_train=False)(record)


def test_an_image_that_test_time_augmentation_adds_is_encoded(records, store):
    """Detectron2's client reads the file of an item without image, then resizes and flips it."""
    cfg = from_store(store, "TEST.AUG.MIN_SIZES", (96,))
    model = small_model(cfg).eval()
    stored = build_mapper(cfg, is_train=False)(records[0])
    plain = {key: stored[key] for key in ("file_name", "height", "width")}
    with torch.no_grad():
        result, expected = GeneralizedRCNNWithTTA(cfg, model)([stored, plain])
    result, expected = result["instances"], expected["instances"]
    assert len(expected) and torch.equal(result.pred_boxes.tensor, expected.pred_boxes.tensor)
