import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.fcos import FCOSHead

from cdl_d2.d2 import CompressedFCOS
from cdl_d2.d2.model_input import build_coded_input
from tests.d2.conftest import make_item, small_cfg, small_model

RETINANET = [
    *("MODEL.CODEC.NAME", "tiny-bmshj2018-hyperprior", "MODEL.CODEC.QUALITY", 2),
    *("MODEL.META_ARCHITECTURE", "CompressedRetinaNet", "MODEL.RETINANET.NUM_CLASSES", 2),
    *("MODEL.BACKBONE.NAME", "build_bridged_backbone"),
    *("MODEL.BRIDGE.BACKBONE", "build_retinanet_resnet_fpn_backbone", "INPUT.DOMAIN", "latent"),
    *("MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"]),
    *("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"], "MODEL.RETINANET.NUM_CONVS", 1),
    *("MODEL.RETINANET.SCORE_THRESH_TEST", 0.0, "MODEL.RETINANET.TOPK_CANDIDATES_TEST", 50),
]


def retinanet():
    return small_model(small_cfg("pixel", *RETINANET))


def fcos():
    """Build the model of Detectron2's LazyConfig, on the backbone of the other."""
    torch.manual_seed(0)
    cfg = small_cfg("pixel", *RETINANET)
    shapes = [ShapeSpec(channels=16, stride=2**level) for level in range(3, 8)]
    return CompressedFCOS(
        backbone=small_model(cfg).backbone,
        head=FCOSHead(input_shape=shapes, num_classes=2, conv_dims=[16]),
        head_in_features=["p3", "p4", "p5", "p6", "p7"],
        num_classes=2,
        pixel_mean=[103.53, 116.28, 123.675],
        pixel_std=[1.0, 1.0, 1.0],
        test_score_thresh=0.0,
        test_topk_candidates=50,
        coded_input=build_coded_input(cfg),
    )


@pytest.mark.parametrize("build", [retinanet, fcos])
def test_a_one_stage_detector_on_latents_learns_all_behind_the_bridge(build, storage):
    losses = build().train()([make_item(96, 128), make_item(80, 64, seed=1)])
    total = sum(losses.values())
    assert total.isfinite() and len(losses) >= 2
    total.backward()


@pytest.mark.parametrize("build", [retinanet, fcos])
def test_batch_mates_do_not_change_what_it_finds(build):
    model, small, large = build().eval(), make_item(70, 90), make_item(130, 200, seed=1)
    together = model([small, large])
    for item, output in zip((small, large), together, strict=True):
        alone = model([item])[0]
        assert torch.allclose(alone["instances"].scores, output["instances"].scores, atol=1e-4)
        assert output["bits"] > 0 and alone["image_size"] == tuple(item["image"].shape[1:])
