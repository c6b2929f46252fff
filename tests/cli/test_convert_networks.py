"""cdl convert of networks by name: real commands, small networks, no Detectron2."""

import json
import signal
from dataclasses import replace
from functools import partial
from unittest.mock import Mock

import pytest
import torch
from torchvision.io import write_png
from torchvision.models import ShuffleNet_V2_X0_5_Weights, get_model
from torchvision.transforms._presets import ImageClassification

from cdl_d2.cli.conversion_options import ConversionOptions
from cdl_d2.codec import networks
from cdl_d2.conversion.distillation import Distillation
from cdl_d2.model_zoo.catalog import find_card
from cdl_d2.prediction.loading import load_model
from tests.commands import output_of, refused, run

CODEC = "--codec", "tiny-bmshj2018-hyperprior", "--quality", 2
NETWORK = "torchvision/shufflenet_v2_x0_5"
SHORT = "--iterations", 1


@pytest.fixture(scope="module", autouse=True)
def small_images_and_batches():
    """Images of 64 pixels instead of 224, two in a batch."""
    entry, distillation = ShuffleNet_V2_X0_5_Weights.DEFAULT, ConversionOptions.distillation
    transforms = partial(ImageClassification, crop_size=64, resize_size=64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entry.value, "transforms", transforms)
        small = lambda options: replace(distillation(options), batch_size=2)  # noqa: E731
        patch.setattr(ConversionOptions, "distillation", small)
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of weights for three classes."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "trained.pth"
    torch.save(get_model("shufflenet_v2_x0_5", weights=None, num_classes=3).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of unlabelled images."""
    folder = tmp_path_factory.mktemp("photos")
    generator = torch.Generator().manual_seed(0)
    for number in range(16):
        patches = torch.randint(0, 256, (3, 3, 4), generator=generator, dtype=torch.uint8)
        image = patches.repeat_interleave(16, 1).repeat_interleave(16, 2)
        write_png(image, str(folder / f"{number:02}.png"))
    return folder


@pytest.fixture(scope="module")
def converted(weights, photos, tmp_path_factory):
    """The output folder of a conversion."""
    output = tmp_path_factory.mktemp("runs") / "converted"
    text = output_of(
        "convert", NETWORK, photos, *CODEC, *SHORT, "--weights", weights, "--output", output
    )
    assert str(output) in text
    return output


def test_a_converted_network_predicts_images_and_bitstreams(converted, photos, tmp_path):
    coded, out = tmp_path / "coded", tmp_path / "out"
    output_of("codec", "compress", "--for", converted, photos / "00.png", "--output", coded)
    output_of("predict", converted, photos / "01.png", coded / "00.cdlz", "--output", out)
    lines = (out / "predictions.csv").read_text().splitlines()
    assert lines[0] == "file,class,0,1,2" and len(lines) == 3


def test_a_converted_network_is_counted_and_timed_against_decoding(converted):
    counts = json.loads(output_of("count", converted, "--json"))
    assert counts["pixel_network"] < counts["latent_network"] < sum(counts.values())
    double = json.loads(output_of("count", NETWORK, "--size", 128, 64, "--json"))
    assert double["pixel_network"] > 1.9 * counts["pixel_network"]
    coded_alike = [
        json.loads(output_of("count", converted, "--size", side, side, "--json"))
        for side in (80, 128)
    ]
    assert coded_alike[0]["encode"] == coded_alike[1]["encode"]
    rows = json.loads(output_of("bench", "model", converted, "--repeats", 1, "--json"))
    assert rows[-1]["part"] == "latent_network / (decode + pixel_network)" and rows[-1]["ratio"] > 0
    assert "SOLVER.SEED" in refused("count", converted, "SOLVER.SEED", 1)


def test_a_network_entered_behind_a_stage_is_a_cheaper_model(weights, photos, tmp_path):
    words = "convert", f"{NETWORK}:{weights}", photos, *CODEC, "--iterations", 0
    output_of(*words, "--entry", "stage2", "--output", tmp_path / "out")
    model = load_model(tmp_path / "out", "cpu")
    assert model.config.entry == "stage2" and not list(
        model.network.runner.network.conv1.parameters()
    )
    assert "stage9" in refused(*words, "--entry", "stage9", "--output", tmp_path / "other")
    assert "--finest-level" in refused(*words, "--finest-level", 3, "--output", tmp_path / "other")


def test_the_folder_of_a_conversion_that_has_ended_is_not_written_over(converted, weights, photos):
    before = (converted / "model_final.pth").read_bytes()
    words = "convert", f"{NETWORK}:{weights}", photos, *CODEC, *SHORT, "--output", converted
    assert str(converted) in refused(*words)
    assert (converted / "model_final.pth").read_bytes() == before


def test_an_rgb_network_and_its_fine_tuning_on_decoded_images_are_models_too(
    weights, photos, tmp_path
):
    words = "convert", f"{NETWORK}:{weights}", photos, *CODEC, "--iterations", 0
    output_of(*words, "--domain", "reconstruction", "--output", tmp_path / "tuned")
    for model in (f"{NETWORK}:{weights}", tmp_path / "tuned"):
        assert load_model(model, "cpu").class_names == ("0", "1", "2")


def test_qualities_are_compared_in_one_table_and_on_a_page(weights, photos, tmp_path):
    pytest.importorskip("matplotlib")
    words = "convert", f"{NETWORK}:{weights}", photos, *CODEC[:2], "--iterations", 0
    output = tmp_path / "out"
    output_of(*words, "--qualities", 0, "--output", output)  # as if it was interrupted at 2
    first = (output / "quality-0" / "model_final.pth").stat().st_mtime_ns
    text = output_of(*words, "--qualities", 0, 0, 2, "--report", "--output", output)
    assert (output / "quality-0" / "model_final.pth").stat().st_mtime_ns == first
    assert sum(line.startswith("| ") for line in text.splitlines()) == 2 + 2 * 3
    for quality in (0, 2):
        content = json.loads((output / f"quality-{quality}" / "report.json").read_text())
        assert content["quality"] == quality and content["rows"][0]["agreement"]["top1"] == 100
    assert "<img" in (output / "report.html").read_text()
    assert (output / "agreement.png").exists()
    assert "--qualities" in refused(*words, "--output", tmp_path / "other")


def test_an_interrupted_training_is_continued_by_the_same_command(
    weights, photos, tmp_path, monkeypatch
):
    output = tmp_path / "out"
    words = "convert", NETWORK, photos, *CODEC, "--weights", weights, "--output", output
    step, steps = Distillation._step, []

    def interrupted(run, optimizer, done):
        steps.append(run._iteration)
        if len(steps) == 2:
            signal.raise_signal(signal.SIGINT)
        step(run, optimizer, done)

    monkeypatch.setattr(Distillation, "_step", interrupted)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status, _, _ = run(*words, "--iterations", 3)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert status == 130 and not (output / "model_final.pth").exists()
    assert str(output) in refused(*words, "--iterations", 3, "--seed", 1)
    steps[:] = [-1, -1]
    output_of(*words, "--iterations", 3)
    assert steps[2:] == [1, 2]
    assert json.loads((output / "conversion.json").read_text())["distillation"]["iterations"] == 3


def test_a_conversion_that_fails_leaves_nothing(weights, photos, tmp_path):
    words = *CODEC, "--output", tmp_path / "out"
    torch.save({"conv1.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    assert "other.pth" in refused("convert", f"{NETWORK}:{tmp_path}/other.pth", photos, *words)
    assert "shufflenet" in refused("convert", "torchvision/shufflenet", photos, *words)
    assert "torchvision/" in refused("convert", "resnet50", photos, *words)
    one = photos / "00.png"
    assert "1 image" in refused("convert", NETWORK, one, *words, "--weights", weights)
    assert not (tmp_path / "out").exists()


def test_a_converted_network_becomes_a_model_of_the_zoo(converted, tmp_path, monkeypatch, photos):
    monkeypatch.setenv("CDL_HOME", str(tmp_path / "home"))
    words = "--name", "small-latents", "--data-name", "photos"
    assert "name all" in refused("zoo", "add", converted, *words)
    output_of("zoo", "add", converted, *words, "--classes", "cat", "dog", "elk")
    card = find_card("small-latents")
    assert card.backend == "pytorch" and card.weights.bytes < 1_000_000
    model = load_model("small-latents", "cpu")
    assert model.card == card and model.class_names == ("cat", "dog", "elk")
    output_of("predict", "small-latents", photos / "00.png", "--output", tmp_path / "out")


def test_a_codec_out_of_reach_is_asked_for_as_a_file(weights, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(networks, "download_file", Mock(side_effect=FileNotFoundError("offline")))
    words = "--codec", "bmshj2018-hyperprior", "--quality", 2, "--output", tmp_path / "out"
    assert "--codec-weights" in refused("convert", f"{NETWORK}:{weights}", photos, *words)
