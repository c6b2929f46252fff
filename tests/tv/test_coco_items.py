import json
import pickle
from multiprocessing.reduction import ForkingPickler

import pytest
import torch

from cdl_d2.codec import Codec
from cdl_d2.data import LatentStore, Plan, Variant
from cdl_d2.data.datasets.image_lists import list_images
from cdl_d2.data.store.encoding import encode_shards
from cdl_d2.data.store.latent_store import close_store
from cdl_d2.tv import CocoItems
from cdl_d2.tv.schedule import TrainingBatches

VARIANTS = (Variant(64, 128), Variant(64, 128, flip=True), Variant())


@pytest.fixture
def dataset(coco_dataset):
    return CocoItems(*coco_dataset, VARIANTS, training=True)


def test_images_without_objects_and_crowds_are_not_trained_on(dataset, coco_dataset):
    assert len(dataset) == 3  # the third image has none
    assert len(CocoItems(*coco_dataset, VARIANTS, training=False)) == 4
    last = dataset[len(dataset) - 1, 2]
    assert len(last["target"]["boxes"]) == 2  # and a crowd


@pytest.mark.parametrize("variant", [0, 1, 2])
def test_boxes_and_masks_follow_the_image(dataset, variant):
    item = dataset[0, variant]
    for box, mask in zip(item["target"]["boxes"], item["target"]["masks"], strict=True):
        rows, columns = mask.nonzero(as_tuple=True)
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert torch.allclose(box, torch.stack(seen).float(), atol=1.5)
        bright = item["image"][:, mask.bool()].float().mean()
        assert bright > 100  # objects are, the background is not


def test_an_item_of_a_store_is_that_of_the_image(coco_dataset, tmp_path):
    codec = Codec.load("tiny-bmshj2018-hyperprior", 2)
    annotations, images = coco_dataset
    plan = Plan(codec.identity, "arrays", VARIANTS, tuple(list_images(images, annotations)))
    plan.save(tmp_path / "store")
    list(encode_shards(codec, plan, images, tmp_path / "store", [0], workers=0))
    close_store(tmp_path / "store", plan)
    store = LatentStore(tmp_path / "store", codec)
    stored = CocoItems(annotations, images, VARIANTS, training=True, store=store)
    plain = CocoItems(annotations, images, VARIANTS, training=True)
    for variant in range(len(VARIANTS)):
        ours, theirs = stored[1, variant], plain[1, variant]
        assert torch.equal(ours["image"], theirs["image"])
        latent = codec.encode(theirs["image"].float() / 255)
        assert torch.equal(ours["latent"], latent.cells)
    with pytest.raises(ValueError, match="short edge 32"):
        CocoItems(annotations, images, [Variant(32)], training=True, store=store)
    no_image = CocoItems(
        annotations, images, VARIANTS, training=True, store=store, with_image=False
    )
    assert "image" not in no_image[0]


def test_items_are_the_same_in_another_process(dataset):
    other = pickle.loads(ForkingPickler.dumps(dataset))
    assert len(other) == len(dataset) > 0
    assert torch.equal(other[0]["image"], dataset[0]["image"])


def test_an_unreadable_image_and_a_wrong_size_are_named(dataset, coco_dataset):
    path = coco_dataset[1] / "000.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"000\.png cannot be read"):
        dataset[0]
    path.write_bytes((coco_dataset[1] / "001.png").read_bytes())
    with pytest.raises(ValueError, match="annotated as"):
        dataset[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [1000, 1000, 20, 20]}, r"bbox \[1000, 1000, 20, 20\], which is not on 000"),
        ({"segmentation": {"size": [4, 4], "counts": [0, 16]}}, r"RLE of size \[4, 4\]"),
    ],
)
def test_an_object_that_cannot_be_learned_is_named(coco_dataset, change, message):
    content = json.loads(coco_dataset[0].read_text())
    content["annotations"][0] |= change
    coco_dataset[0].write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        CocoItems(*coco_dataset, VARIANTS, training=True)[0]


def test_objects_without_a_mask_train_boxes_only(coco_dataset):
    content = json.loads(coco_dataset[0].read_text())
    content["annotations"][0]["segmentation"] = [[1, 1, 9, 9, 1, 9, 3]]
    coco_dataset[0].write_text(json.dumps(content))
    target = CocoItems(*coco_dataset, VARIANTS, training=True)[0]["target"]
    assert target["has_mask"].tolist() == [False, True, True]
    assert not target["masks"][0].any() and len(target["boxes"]) == 3
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    coco_dataset[0].write_text(json.dumps(content))
    with pytest.raises(ValueError, match="no mask for any object"):
        CocoItems(*coco_dataset, VARIANTS, training=True)
    assert len(CocoItems(*coco_dataset, VARIANTS, training=True, with_masks=False)) == 3


def test_what_is_ignored_or_has_no_area_is_not_trained_on(coco_dataset):
    content = json.loads(coco_dataset[0].read_text())
    content["annotations"][0]["ignore"] = 1
    content["annotations"][1]["bbox"][2] = 0
    coco_dataset[0].write_text(json.dumps(content))
    items = CocoItems(*coco_dataset, VARIANTS, training=True)
    assert len(items[0]["target"]["boxes"]) == 1


def test_an_epoch_shows_every_image_once_to_one_of_the_processes():
    def draws(rank):
        batches = TrainingBatches(12, 2, 2, seed=0, iterations=(0, 6), rank=rank, world_size=2)
        return [draw for batch in batches for draw in batch]

    shown = [image for rank in (0, 1) for image, _ in draws(rank)]
    assert sorted(shown[:6] + shown[12:18]) == list(range(12))
    assert {variant for rank in (0, 1) for _, variant in draws(rank)} == {0, 1}


def test_batches_do_not_depend_on_where_training_started():
    def batches(first):
        return list(TrainingBatches(7, 3, 2, seed=5, iterations=(first, 20)))

    assert batches(0)[9:] == batches(9)
    assert batches(0) != list(TrainingBatches(7, 3, 2, seed=6, iterations=(0, 20)))
