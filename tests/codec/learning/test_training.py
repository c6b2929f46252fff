import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from cdl_d2.bench.rate_distortion import average, measure_image
from cdl_d2.codec import Codec
from cdl_d2.codec.io.image_files import find_images
from cdl_d2.codec.learning import training
from cdl_d2.codec.learning.training import CodecTraining, RandomCrops, train_codec

PLAN = CodecTraining("tiny-bmshj2018-hyperprior", 1, "mse", 0.01, 4, batch_size=2, patch_size=64)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(3):
        Image.effect_noise((96, 80), 20 + 40 * index).convert("RGB").save(folder / f"{index}.png")
    return folder


def test_a_resumed_training_ends_in_the_same_weights(photos, tmp_path, monkeypatch):
    whole = train_codec(PLAN, photos, tmp_path / "whole", checkpoint_every=2)
    steps, real_step = [], training._step

    def interrupted_step(*args):
        steps.append(args)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return real_step(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "_step", interrupted_step)
        train_codec(PLAN, photos, tmp_path / "parts", checkpoint_every=2)
    parts = train_codec(PLAN, photos, tmp_path / "parts", checkpoint_every=2, resume=True)
    first, second = load_file(whole), load_file(parts)
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_training_lowers_the_loss(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "ITERATIONS_PER_LOG", 30)
    plan = CodecTraining(**{**vars(PLAN), "iterations": 30, "batch_size": 1})
    first = train_codec(PLAN, photos, tmp_path / "short")
    last = train_codec(plan, photos, tmp_path / "long")
    costs = []
    for path in (first, last):
        codec = Codec.load("tiny-bmshj2018-hyperprior", 1, weights=str(path))
        point = average([measure_image(codec, path) for path in find_images(photos)])
        distortion = 255**2 * 10 ** (-point["PSNR (dB)"] / 10)
        costs.append(point["estimated"] + plan.lmbda * distortion)
    assert costs[1] < costs[0]
    line = json.loads((tmp_path / "long" / "metrics.jsonl").read_text())
    assert line["iteration"] == 30 and {"bpp_loss", "mse_loss", "loss"} <= line.keys()


def test_a_checkpoint_of_another_plan_is_not_resumed(photos, tmp_path):
    train_codec(PLAN, photos, tmp_path / "out")
    other = CodecTraining(**{**vars(PLAN), "lmbda": 0.05})
    with pytest.raises(ValueError, match="trained with"):
        train_codec(other, photos, tmp_path / "out", resume=True)


def test_a_crop_depends_on_seed_and_index_only(photos):
    first, second = (RandomCrops(photos, 64, 10, seed=3) for _ in range(2))
    _ = first[0]
    assert torch.equal(first[7], second[7])
    assert not torch.equal(first[7], first[8])
    assert first[7].shape == (3, 64, 64)


def test_a_folder_without_images_is_named(tmp_path):
    with pytest.raises(ValueError, match="no image"):
        RandomCrops(tmp_path, 64, 1, seed=0)


@pytest.mark.filterwarnings("ignore:.*another image is used")
def test_images_that_are_all_smaller_than_a_patch_are_rejected(photos):
    with pytest.raises(ValueError, match="smaller than the patch size 128"):
        RandomCrops(photos, 128, 1, seed=0)[0]


def test_an_unusable_image_is_replaced_with_a_warning(photos):
    before = RandomCrops(photos, 64, 20, seed=3)
    crops_before = [before[number] for number in range(20)]
    Image.new("RGB", (64, 63)).save(photos / "1.png")
    (photos / "2.png").write_bytes(b"no image")
    crops = RandomCrops(photos, 64, 20, seed=3)
    with pytest.warns(UserWarning, match="another image") as warnings:
        crops_after = [crops[number] for number in range(20)]
    messages = " ".join(str(warning.message) for warning in warnings)
    assert "1.png" in messages and "2.png" in messages and "0.png" not in messages
    equal = [torch.equal(a, b) for a, b in zip(crops_before, crops_after, strict=True)]
    assert any(equal) and not all(equal)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "tiny-jpeg"}, "codec name 'tiny-jpeg'"),
        ({"quality": 99}, "quality 99"),
        ({"iterations": 0}, "at least 1"),
        ({"patch_size": 100}, "not a multiple of 64"),
        ({"metric": "ms-ssim", "patch_size": 128}, "MS-SSIM needs more"),
    ],
)
def test_invalid_hyperparameters_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        CodecTraining(**{**vars(PLAN), **change})


@pytest.mark.parametrize(
    ("name", "channels"),
    [("tiny-mbt2018-mean", 192), ("tiny-zhang2022", 192), ("tiny-zhang2022-layered", 208)],
)
def test_any_tiny_architecture_that_was_trained_can_be_loaded(photos, tmp_path, name, channels):
    plan = CodecTraining(name, 3, "mse", 0.01, 1, batch_size=1, patch_size=64)
    path = train_codec(plan, photos, tmp_path / "out")
    codec = Codec.load(name, 3, weights=str(path))
    assert codec.latent_channels == channels
    image = torch.rand(3, 60, 70)
    assert torch.equal(codec.decompress(codec.compress(image)).y_hat, codec.encode(image).y_hat)
