import dataclasses
import itertools
import json
import os
import pickle
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Dataset

from cdl_d2.codec import Codec
from cdl_d2.codec.io.image_files import read_image
from cdl_d2.data import LatentStore, Plan, Variant
from cdl_d2.data.store.encoding import encode_shards
from cdl_d2.data.store.latent_store import close_store, shard_path
from cdl_d2.data.store.record import Record, pack_latent
from cdl_d2.data.store.whole_dataset import encode_dataset
from cdl_d2.errors import CdlError
from tests.conftest import small_codec
from tests.data.store.conftest import VARIANTS


def test_every_variant_of_every_image_is_what_the_encoder_gives(store_folder, photos, plan, codec):
    store = LatentStore(store_folder, codec)
    for image in plan.images:
        for variant in VARIANTS:
            pixels = variant.apply(read_image(photos / image))
            expected = codec.encode(pixels.float() / 255)
            stored = store.read(f"/somewhere/else/{image}", variant)
            assert torch.equal(stored["latent"], expected.cells)
            assert (
                stored["image_size"] == expected.image_size == variant.size(*_size(photos / image))
            )
            assert stored["bits"] == expected.total_bits


def _size(path):
    return tuple(read_image(path).shape[1:])


@pytest.mark.parametrize("name", ["bmshj2018-factorized", "mbt2018-mean", "mbt2018"])
@pytest.mark.parametrize("form", ["arrays", "bitstreams"])
def test_latents_of_any_codec_are_stored_without_loss(name, form, photos, tmp_path):
    codec, folder = small_codec(name), tmp_path / "store"
    plan = Plan(codec.identity, form, VARIANTS[:1], ("0.png",))
    plan.save(folder)
    assert not any(e.error for e in encode_shards(codec, plan, photos, folder, [0], workers=0))
    close_store(folder, plan)
    store = LatentStore(folder, codec)
    expected = codec.encode(read_image(photos / "0.png").float() / 255)
    stored, record = store.read("0.png", VARIANTS[0]), store.record("0.png", VARIANTS[0])
    assert torch.equal(stored["latent"], expected.cells)
    files = form == "bitstreams"
    assert stored["bits"] == (8 * len(record.content) if files else expected.total_bits)


@pytest.mark.parametrize("change", [{"image_size": (2**14, 2**14)}, {"channels": 2**16 - 1}])
@pytest.mark.parametrize("value", [1, 0.5])
def test_a_record_is_not_expanded_to_more_than_an_image_of_the_codec(
    store_folder, codec, monkeypatch, value, change
):
    genuine = pack_latent(torch.full((192, 4, 5), value), (50, 72), 1.0)
    forged = dataclasses.replace(genuine, **change).to_bytes()
    monkeypatch.setattr(LatentStore, "record", lambda *_: Record.from_bytes(forged))
    monkeypatch.setattr("cdl_d2.data.store.record._decompress", None)  # never reached
    with pytest.raises(CdlError):
        LatentStore(store_folder, codec).read("0.png", VARIANTS[0])


class _Reads(Dataset):
    def __init__(self, store):
        self.store = store

    def __len__(self):
        return 40

    def __getitem__(self, index):
        image = self.store.plan.images[index % 7]
        return self.store.read(image, VARIANTS[0])["latent"].sum()


def test_many_workers_read_at_once(store_folder, codec):
    store = LatentStore(store_folder, codec)
    alone = [_Reads(store)[i] for i in range(40)]
    together = list(DataLoader(_Reads(store), batch_size=None, num_workers=2))
    assert together == alone
    assert pickle.loads(pickle.dumps(store)).find("0.png") == "0.png"


def test_a_path_is_found_by_its_ending_unless_that_is_ambiguous(codec, tmp_path):
    plan = Plan(codec.identity, "arrays", (Variant(),), ("a.png", "b/a.png", "b/d.png"))
    plan.save(tmp_path)
    (tmp_path / "manifest.json").write_text('{"shards": [], "failures": {}}')
    store = LatentStore(tmp_path, codec)
    assert store.find("/data/a.png") == "a.png"
    assert store.find("/data/b/./d.png") == "b/d.png"
    with pytest.raises(ValueError, match=r"b/a\.png or a\.png"):
        store.find("/data/b/a.png")
    with pytest.raises(ValueError, match=r"c\.png is not in the latent store"):
        store.find("/data/c.png")


def test_another_codec_quality_or_quantization_is_an_error(store_folder, codec):
    quality_1 = Codec.load("tiny-bmshj2018-hyperprior", 1)
    with pytest.raises(ValueError, match=r"quality 2 .* quality 1"):
        LatentStore(store_folder, quality_1)
    rounded = Codec.load("tiny-bmshj2018-hyperprior", 2, quantization="rounded")
    with pytest.raises(ValueError, match=r"dequantized .* rounded"):
        LatentStore(store_folder, rounded)


def test_a_variant_that_is_not_stored_is_named(store_folder, codec):
    with pytest.raises(ValueError, match="no latents of short edge 80"):
        LatentStore(store_folder, codec).read("0.png", Variant(80))


def test_a_store_of_flipped_images_has_no_upright_variant(plan, codec, tmp_path):
    dataclasses.replace(plan, variants=(Variant(40, 60, flip=True),)).save(tmp_path)
    (tmp_path / "manifest.json").write_text('{"shards": [], "failures": {}}')
    with pytest.raises(CdlError, match="flipped"):
        _ = LatentStore(tmp_path, codec).upright_variant


def test_a_store_that_is_missing_or_not_complete_is_named(store_folder, codec, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"plan\.json"):
        LatentStore(tmp_path, codec)
    (store_folder / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"not complete"):
        LatentStore(store_folder, codec)


def test_a_corrupted_or_missing_shard_is_an_error(store_folder, codec):
    path = shard_path(store_folder, 0)
    content = path.read_bytes()
    path.write_bytes(content[:100])
    with pytest.raises(ValueError, match="not a shard"):
        LatentStore(store_folder, codec).read("0.png", VARIANTS[0])
    path.unlink()
    with pytest.raises(FileNotFoundError, match="is missing"):
        LatentStore(store_folder, codec).read("0.png", VARIANTS[0])


@pytest.mark.parametrize("offset", [0, 1, 3, 9, 13, 17, 20, 24, 40])
def test_a_flipped_bit_of_a_record_is_detected(store_folder, codec, offset):
    path = shard_path(store_folder, 2)
    content = bytearray(path.read_bytes())
    (length,) = struct.unpack_from("<Q", content)
    content[8 + length + offset] ^= 1  # of checksum, head (such as bits and image size) or content
    path.write_bytes(content)
    store = LatentStore(store_folder, codec)
    with pytest.raises(ValueError, match="corrupted"):
        store.read(min(store.plan.images_of(2)), VARIANTS[0])


def test_a_shard_that_is_cut_while_it_is_read_is_one_error(store_folder, codec):
    store = LatentStore(store_folder, codec)
    store.read("0.png", VARIANTS[0])
    os.truncate(shard_path(store_folder, 0), 2000)
    with pytest.raises(ValueError, match="corrupted"):
        for image in store.plan.images_of(0):
            store.read(image, VARIANTS[0])


def test_a_shard_of_another_store_is_an_error(store_folder, photos, plan, tmp_path):
    codec = Codec.load("tiny-bmshj2018-hyperprior", 1)
    quality_1 = dataclasses.replace(plan, codec=codec.identity)
    quality_1.save(tmp_path / "other")
    list(encode_shards(codec, quality_1, photos, tmp_path / "other", [1], 0))
    shard_path(tmp_path / "other", 1).replace(shard_path(store_folder, 1))
    store = LatentStore(store_folder, Codec.load("tiny-bmshj2018-hyperprior", 2))
    store.read("0.png", VARIANTS[0])
    with pytest.raises(ValueError, match=r"another store: its codec is .*'quality': 1"):
        store.read("3.png", VARIANTS[0])


def test_a_store_of_format_1_is_read_and_finished(store_folder, photos, plan, codec):
    """A store of cdl_d2 0.1.0 has no checksums of records and no plans in shards."""
    new, expected = LatentStore(store_folder, codec), {}
    for image, variant in itertools.product(new.plan.images, VARIANTS):
        expected[image, variant] = new.read(image, variant)["latent"]
    written = json.loads((store_folder / "plan.json").read_text())
    (store_folder / "plan.json").write_text(json.dumps(written | {"format": 1}))
    for shard in range(3):
        tensors = load_file(shard_path(store_folder, shard))
        old = {name: tensor[4:].clone() for name, tensor in tensors.items()}
        save_file(old, shard_path(store_folder, shard), metadata={"failures": "{}"})
    old = LatentStore(store_folder, codec)
    for image in plan.images:  # the first variant is as large as the image
        assert old.original_size(image) == new.original_size(image) == _size(photos / image)
    for (image, variant), latent in expected.items():
        assert torch.equal(old.read(image, variant)["latent"], latent)
    shard_path(store_folder, 1).unlink()
    assert encode_dataset(codec, plan, photos, store_folder, print, workers=0) == (0, {})
    finished = LatentStore(store_folder, codec)
    for (image, variant), latent in expected.items():
        assert torch.equal(finished.read(image, variant)["latent"], latent)


def test_a_changed_image_is_detected_by_its_size_or_content(store_folder, photos, codec):
    store = LatentStore(store_folder, codec)
    store.check_image(photos / "0.png")
    store.check_image(photos / "gone" / "0.png")  # a store needs no images
    os.utime(photos / "0.png", (1, 1))
    store.check_image(photos / "0.png")
    content = bytearray((photos / "0.png").read_bytes())
    content[-1] ^= 1
    (photos / "0.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"content .*0\.png"):
        store.check_image(photos / "0.png")
    (photos / "0.png").write_bytes(content + b"x")
    with pytest.raises(ValueError, match=r"another image .*bytes"):
        store.check_image(photos / "0.png")


@pytest.mark.parametrize(
    "content",
    [
        *("[]", '{"shards": [], "failures": []}', '{"shards": [3], "failures": {}}', "[" * 10**5),
        *('{"shards": 3, "failures": {}}', '{"shards": [{"bytes": 3}], "failures": {}}'),
    ],
)
def test_an_invalid_manifest_is_an_error(store_folder, codec, content):
    (store_folder / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=r"manifest\.json"):
        LatentStore(store_folder, codec)


def test_the_manifest_counts_images_and_bytes(store_folder, plan):
    content = json.loads((store_folder / "manifest.json").read_text())
    assert content["images"] == 7 and len(content["shards"]) == plan.shards == 3
    for shard, entry in enumerate(content["shards"]):
        assert entry["bytes"] == shard_path(store_folder, shard).stat().st_size


def test_a_store_of_the_same_weights_under_another_name_says_that_the_name_differs(
    store_folder, codec
):
    mine = Codec.from_network("mine", codec.network, codec.latent_channels, quality=2)
    with pytest.raises(CdlError, match=r"differ in name$"):
        LatentStore(store_folder, mine)
