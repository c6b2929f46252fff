"""Distillation of Detectron2's models after the fit of a conversion, and its report."""

import json
import math
from dataclasses import replace

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

import torch
from torchvision.io import write_png

from cdl_d2.codec import CodecChoice
from cdl_d2.codec.io.weights_file import read_weights
from cdl_d2.conversion import DistillationOptions
from cdl_d2.conversion.report import CONVERTED, DECODED, FINE_TUNED, ORIGINALS
from cdl_d2.d2 import SafeCheckpointer
from cdl_d2.d2.applications.convert import YamlConversion
from cdl_d2.d2.config_files import read_config
from cdl_d2.errors import CdlError
from tests.d2.conftest import make_item, small_cfg, small_model

OPTIONS = DistillationOptions(iterations=1, batch_size=2, adapt="all", patience=0)
CASCADE = [
    *("MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
]
SIZE = "INPUT.IMAGE_SIZE", 96, "INPUT.MIN_SIZE_TEST", 96
CONFIGS = {
    "cascade": lambda: small_cfg("pixel", *CASCADE, "INPUT.MIN_SIZE_TEST", 64),
    "DeepLab": lambda: read_config("segmentation/small/pixel_deeplab_small.yaml", SIZE),
    "classifier": lambda: read_config("classification/small/pixel_resnet_small.yaml", SIZE),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number in range(16):
        write_png(make_item(64, 70, seed=number)["image"], str(folder / f"{number:02}.png"))
    return sorted(folder.iterdir())


def convert(cfg, images, folder, output="out", **arguments):
    """Save a small RGB model, whose detections are confident ones of class 0, and convert it."""
    run, model = folder / "run", small_model(cfg)
    run.mkdir()
    for name, parameter in model.named_parameters():
        if name.endswith("cls_score.bias"):
            parameter.data[0] += 4
    SafeCheckpointer(model, str(run)).save("model_final")
    (run / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
    codec, output = CodecChoice("tiny-bmshj2018-hyperprior", 2), folder / output
    outcome = YamlConversion(run / "config.yaml", images, codec, output, **arguments).run()
    weights = [read_weights(f / "model_final.pth")["model"] for f in (run, output)]
    return outcome, read_config(output / "config.yaml"), *weights


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_on_latents_is_distilled_without_labels(name, images, tmp_path):
    outcome, cfg, before, after = convert(CONFIGS[name](), images, tmp_path, distillation=OPTIONS)
    assert [check["iteration"] for check in outcome.history] == [0, 1]
    assert all(math.isfinite(check["loss"]) for check in outcome.history)
    assert cfg.INPUT.DOMAIN == "latent" and outcome.explained <= 1
    assert any(name.endswith("is_fitted") and value for name, value in after.items())
    statistics = [key for key in before if "running" in key]
    assert all(torch.equal(before[key], after[key]) for key in statistics)
    assert not (tmp_path / "out" / "distillation.pth").exists()
    report = outcome.report
    assert report.candidate == CONVERTED and report.images == len(outcome.kept_aside) == 4
    assert report.row(ORIGINALS).agreement[report.kind] > 99
    content = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert content["history"] == outcome.history and len(content["rows"]) == 3


def test_a_model_on_decoded_images_is_distilled_in_the_same_way(images, tmp_path):
    arguments = {"domain": "reconstruction", "distillation": OPTIONS}
    cfg = small_cfg("pixel", "INPUT.MIN_SIZE_TEST", 64)
    outcome, cfg, before, after = convert(cfg, images, tmp_path, **arguments)
    assert outcome.explained is None and len(outcome.history) == 2
    assert cfg.INPUT.DOMAIN == "reconstruction" and before.keys() <= after.keys()


@pytest.mark.parametrize("name", ["cascade", "DeepLab"])
def test_without_a_training_a_model_on_decoded_images_is_level_with_decoding(
    name, images, tmp_path
):
    outcome, *_ = convert(CONFIGS[name](), images, tmp_path, domain="reconstruction")
    report = outcome.report
    assert report.candidate != FINE_TUNED
    assert report.row(report.candidate).agreement == report.row(DECODED).agreement
    assert not report.decoding_agrees_more and set(report.difference.values()) == {0}


def test_a_fit_to_a_few_images_keeps_none_aside(images, tmp_path):
    outcome, *_ = convert(CONFIGS["classifier"](), images[:15], tmp_path)
    assert outcome.report is None and not (tmp_path / "out" / "report.json").exists()


def test_too_few_images_for_a_distillation_are_refused_before_the_fit(images, tmp_path):
    with pytest.raises(CdlError, match="--iterations 0"):
        convert(small_cfg("pixel"), images[:5], tmp_path, distillation=OPTIONS)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("network", ["resnet", "timm"])
def test_a_cheaper_student_is_fitted_to_a_stage_and_has_the_coarser_levels(
    network, images, tmp_path
):
    cfg = small_cfg("pixel", "INPUT.MIN_SIZE_TEST", 64)
    if network == "timm":
        pytest.importorskip("timm", reason="timm is not installed")
        cfg.MODEL.BACKBONE.NAME, cfg.MODEL.TIMM.NAME = (
            "build_timm_fpn_backbone",
            "test_efficientnet",
        )
    arguments = {"distillation": OPTIONS, "entry": "res3"}
    outcome, cfg, before, after = convert(cfg, images, tmp_path, **arguments)
    assert 0 < outcome.explained <= 1 and len(outcome.history) == 2
    assert cfg.MODEL.BRIDGE.ENTRY == "res3" and len(after) < len(before)
    assert cfg.MODEL.RPN.IN_FEATURES == ["p3", "p4", "p5", "p6"]
    assert len(cfg.MODEL.ANCHOR_GENERATOR.SIZES) == 4
    heads = [key for key in after if key.startswith(("proposal_generator", "roi_heads"))]
    assert heads and all(after[key].shape == before[key].shape for key in heads)


@pytest.mark.parametrize("finest_level", [0, 3])
def test_the_proposal_network_of_a_cheaper_student_learns_by_itself(finest_level, images, tmp_path):
    cfg = small_cfg("pixel", "INPUT.MIN_SIZE_TEST", 64)
    options = replace(OPTIONS, iterations=4, adapt="bridge", later_rate=0.0)
    arguments = {"distillation": options, "finest_level": finest_level}
    outcome, _, before, after = convert(cfg, images, tmp_path, **arguments)
    assert outcome.history[-1]["loss"] < outcome.history[0]["loss"]
    heads = [key for key in after if key.startswith(("proposal_generator", "roi_heads"))]
    changed = {key.split(".")[1] for key in heads if not torch.equal(before[key], after[key])}
    assert changed == ({"rpn_head"} if finest_level else set())
