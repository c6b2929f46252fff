import json
import os

import pytest

from cdl_d2.data import LatentStore
from cdl_d2.tv import CocoItems
from tests.commands import output_of, refused, run
from tests.data.store.kill_encoding import content_of

CODEC = ["--codec", "tiny-bmshj2018-hyperprior", "--quality", "2"]
ENCODE = ["data", "encode", *CODEC, "--device", "cpu", "--workers", 0]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    words = ["data", "synthesize", "--task", "segmentation", "--count", 3, "--size", 40, 72]
    output_of(*words, "--output", tmp_path / "synthetic")
    (tmp_path / "synthetic" / "images").rename(folder)
    return folder


def test_equal_arguments_synthesize_equal_files(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        words = ["--count", 2, "--size", 64, 64, "--seed", seed, "--output", tmp_path / name]
        output_of("data", "synthesize", "--task", "detection", *words)
    first, equal, different = (content_of(tmp_path / name / "images") for name in "abc")
    assert first == equal != different
    again = ["--task", "detection", "--count", 1, "--output", tmp_path / "a"]
    assert refused("data", "synthesize", *again)
    assert "'synthesize'" in refused("data", "draw", *again)


def test_parts_make_a_store_together(photos, tmp_path, codec, monkeypatch):
    words = [*ENCODE, "--images", photos, "--output", tmp_path / "store", "--shard-size", 2]
    output_of(*words, "--shard", "0/2")
    assert not (tmp_path / "store" / "manifest.json").exists()
    monkeypatch.setitem(os.environ, "RANK", "1")
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    output_of(*words)
    assert LatentStore(tmp_path / "store", codec).failures == {}
    output_of("data", "verify", tmp_path / "store", "--images", photos)


@pytest.fixture
def store(photos, tmp_path):
    """A folder, and the command that has encoded the photos into it."""
    words = [*ENCODE, "--images", photos, "--output", tmp_path / "store", "--shard-size", 2]
    output_of(*words)
    return tmp_path / "store", words


def problems_of(folder, *words):
    status, _, errors = run("data", "verify", folder, *words)
    assert status == 1
    return errors


@pytest.mark.parametrize("corruption", ["cut", "lost", "one bit"])
def test_the_same_command_encodes_a_corrupted_shard_again(store, corruption):
    folder, words = store
    path, whole = folder / "shard-00001.safetensors", content_of(folder)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content[:500] if corruption == "cut" else content)
    if corruption == "lost":
        path.unlink()
    assert "shard-00001" in problems_of(folder) and "cdl data encode" in problems_of(folder)
    output_of(*words)
    assert content_of(folder) == whole
    output_of("data", "verify", folder)


def test_a_pipe_instead_of_a_file_of_a_store_does_not_block(store, tmp_path):
    folder, words = store
    whole, shard = content_of(folder), folder / "shard-00001.safetensors"
    os.mkfifo(tmp_path / "pipe")
    assert "pipe" in problems_of(folder, "--annotations", tmp_path / "pipe")
    shard.unlink()
    os.mkfifo(shard)
    assert "shard-00001" in problems_of(folder)
    output_of(*words)
    assert content_of(folder) == whole


def test_without_its_plan_a_store_does_not_become_another(store):
    folder, words = store
    (folder / "plan.json").unlink()
    better = [1 if word == "2" else word for word in words]
    assert "'quality': 2" in refused(*better)


def test_images_of_another_folder_are_not_mixed_in(store, tmp_path):
    folder, words = store
    synthesize = ["--task", "segmentation", "--count", 3, "--size", 40, 72, "--seed", 1]
    output_of("data", "synthesize", *synthesize, "--output", tmp_path / "others")
    (folder / "shard-00001.safetensors").unlink()
    others = [*words, "--images", tmp_path / "others" / "images"]
    before = content_of(folder)
    assert "--renew" in refused(*others)
    assert content_of(folder) == before
    output_of(*others, "--renew")
    output_of("data", "verify", folder, "--images", tmp_path / "others" / "images")


@pytest.mark.parametrize("quick", [["--quick"], []])
def test_a_changed_image_is_reported_and_renewed(store, photos, quick):
    folder, words = store
    first, last = sorted(photos.iterdir())[::2]
    first.write_bytes(last.read_bytes())
    problems = problems_of(folder, "--images", photos, *quick)
    assert first.name in problems and last.name not in problems and "--renew" in problems
    assert first.name in refused(*words)
    output_of(*words, "--renew")
    output_of("data", "verify", folder, "--images", photos)


def test_changed_annotations_are_reported_and_accepted_with_renew(coco_dataset, tmp_path):
    annotations, images = coco_dataset
    folder, named = tmp_path / "store", ["--annotations", annotations]
    words = [*ENCODE, "--images", images, *named, "--output", folder]
    output_of(*words)
    output_of("data", "verify", folder, *named)
    content = json.loads(annotations.read_text())
    content["annotations"].pop()
    annotations.write_text(json.dumps(content))
    before = content_of(folder)
    assert str(annotations) in problems_of(folder, *named)
    assert "--renew" in refused(*words)
    assert content_of(folder) == before
    output_of(*words, "--renew")
    output_of("data", "verify", folder, *named)
    after = content_of(folder)
    assert [name for name in after if after[name] != before[name]] == ["plan.json"]
    output_of(*(word for word in words if word not in named), "--renew")
    assert content_of(folder) == after


def test_a_store_of_other_images_does_not_serve(store, photos, coco_dataset, tmp_path, codec):
    annotations, images = coco_dataset
    for path in [*photos.iterdir()]:
        path.rename(photos / f"0{path.stem[-2:]}.png")
    (photos / "003.png").write_bytes((photos / "000.png").read_bytes())
    output_of(*ENCODE, "--images", photos, "--output", tmp_path / "other")
    latents = LatentStore(tmp_path / "other", codec)
    items = CocoItems(
        annotations, images, latents.variants, training=False, store=latents, with_image=False
    )
    with pytest.raises(ValueError, match="is of another image"):
        items[0]


@pytest.mark.xdist_group("ray")
def test_ray_writes_the_same_store(photos, ray_cluster, tmp_path):
    (photos / "more.png").write_text("no image")
    words = [*ENCODE[:-2], "--images", photos, "--shard-size", 3, "--short-edges", 40]
    assert run(*words, "--workers", 0, "--output", tmp_path / "alone")[0] == 1
    status, _, errors = run(*words, "--workers", 1, "--ray", "--output", tmp_path / "ray")
    assert status == 1 and "more.png" in errors
    assert content_of(tmp_path / "ray") == content_of(tmp_path / "alone")


def test_an_image_that_fails_is_named(photos, tmp_path):
    (photos / "bad.png").write_text("no image")
    status, _, errors = run(*ENCODE, "--images", photos, "--output", tmp_path / "store")
    assert status == 1 and "bad.png" in errors


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--images", "nowhere"], "nowhere"),
        (["--images", ".", "--annotations", "nowhere.json"], "nowhere.json"),
        (["--images", "photos", "--shard", "2/2"], "2/2"),
        (["--images", "photos", "--shard", "half"], "half"),
        (["--images", "photos", "--short-edges", "-5"], "-5"),
        (["--images", "photos", "--output", "setup.py"], "setup.py"),
        (["--images", "photos", "--form", "boxes"], "boxes"),
        (["--images", "photos", "--dataset", "coco"], "--dataset"),
        ([], "--images"),
    ],
)
def test_options_that_cannot_be_used_are_one_line(arguments, named, photos, tmp_path):
    arguments = [photos if argument == "photos" else argument for argument in arguments]
    output = [] if "--output" in arguments else ["--output", tmp_path / "store"]
    assert named in refused(*ENCODE, *output, *arguments)
    assert not (tmp_path / "store").exists()
