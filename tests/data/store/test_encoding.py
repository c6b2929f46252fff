import json

import pytest
from PIL import Image

from cdl_d2.data import LatentStore
from cdl_d2.data.datasets.image_lists import list_images
from cdl_d2.data.store.encoding import encode_shards, missing_shards
from cdl_d2.data.store.latent_store import close_store
from cdl_d2.errors import CdlError
from tests.conftest import write_bomb
from tests.data.store.conftest import VARIANTS
from tests.data.store.kill_encoding import content_of, kill_until


def test_kills_leave_the_same_store():
    kill_until(3, report=lambda text: None)


@pytest.mark.parametrize(("workers", "batch_size"), [(1, 0), (0, 5)])
def test_workers_and_batches_write_the_same_store_as_one_process_image_by_image(
    store_folder, photos, plan, codec, tmp_path, workers, batch_size
):
    plan.save(tmp_path / "other")
    arguments = codec, plan, photos, tmp_path / "other", range(3), workers, batch_size
    encoded = list(encode_shards(*arguments))
    close_store(tmp_path / "other", plan)
    assert [e.name for e in encoded] == list(plan.images)
    assert content_of(tmp_path / "other") == content_of(store_folder)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_an_image_that_does_not_fit_the_memory_fails_alone(
    photos, plan, codec, tmp_path, monkeypatch, error
):
    def encode_batch(images):
        if any(image.shape[1] == 5 * 12 for image in images):  # photo 2
            raise error
        return real(images)

    real = codec.encode_batch
    monkeypatch.setattr(codec, "encode_batch", encode_batch)
    encoded = list(encode_shards(codec, plan, photos, tmp_path, range(3), workers=0))
    assert [e.name for e in encoded if "memory" in e.error] == ["2.png"]
    with pytest.raises(CdlError, match="a smaller batch"):
        list(encode_shards(codec, plan, photos, tmp_path, range(3), workers=0, batch_size=5))


def test_finished_shards_are_not_encoded_again(photos, plan, codec, tmp_path):
    list(encode_shards(codec, plan, photos, tmp_path, [1], workers=0))
    assert missing_shards(tmp_path, plan) == [0, 2]
    assert close_store(tmp_path, plan) is None


def test_parts_share_the_shards(plan, tmp_path):
    parts = [missing_shards(tmp_path, plan, (i, 2)) for i in range(2)]
    assert parts == [[0, 2], [1]]


def test_a_failed_image_is_reported_and_tried_again(photos, plan, codec, tmp_path):
    good = (photos / "4.png").read_bytes()
    (photos / "4.png").write_bytes(good[:40])
    store = tmp_path / "store"
    plan.save(store)
    failed = [e.name for e in encode_shards(codec, plan, photos, store, range(3), 0) if e.error]
    assert failed == ["4.png"] == list(close_store(store, plan))
    assert missing_shards(store, plan) == [1]
    with pytest.raises(ValueError, match=r"4\.png could not be encoded: .*cannot be read"):
        LatentStore(store, codec).read("4.png", VARIANTS[0])
    LatentStore(store, codec).read("3.png", VARIANTS[0])
    (photos / "4.png").write_bytes(good)
    list(encode_shards(codec, plan, photos, store, missing_shards(store, plan), 0))
    assert close_store(store, plan) == {}
    LatentStore(store, codec).read("4.png", VARIANTS[0])


def test_images_come_from_a_folder_or_an_annotation_file(photos, coco_dataset, tmp_path):
    assert list_images(photos)[-1] == "more/6.png"
    assert list_images(coco_dataset[1], coco_dataset[0]) == [
        "000.png",
        "001.png",
        "002.png",
        "003.png",
    ]
    (tmp_path / "broken.json").write_text('{"images": [{}]}')
    with pytest.raises(ValueError, match="images without 'id'"):
        list_images(tmp_path, tmp_path / "broken.json")
    for name in ("../x.png", "/x.png", ""):
        (tmp_path / "outside.json").write_text(
            json.dumps({"images": [{"id": 1, "height": 8, "width": 8, "file_name": name}]})
        )
        with pytest.raises(ValueError, match="not inside the image folder"):
            list_images(tmp_path, tmp_path / "outside.json")


def test_other_spellings_of_a_file_name_are_one_image(tmp_path):
    names = ("./a.png", "a.png", "b//c.png")
    entries = [{"id": i, "height": 8, "width": 8, "file_name": n} for i, n in enumerate(names)]
    (tmp_path / "coco.json").write_text(json.dumps({"images": entries}))
    assert list_images(tmp_path, tmp_path / "coco.json") == ["a.png", "b/c.png"]


def test_images_that_would_be_clipped_or_exhaust_memory_fail_alone(photos, plan, codec, tmp_path):
    Image.new("I;16", (40, 40), 30_000).save(photos / "1.png")
    write_bomb(photos / "2.png")
    encoded = list(encode_shards(codec, plan, photos, tmp_path, range(3), 0))
    errors = {e.name: e.error for e in encoded if e.error}
    assert "more than 8 bits" in errors.pop("1.png") and "exceeds limit" in errors.pop("2.png")
    assert not errors
