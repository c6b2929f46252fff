"""The two backends, given the same weights, are the same network."""

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from cdl_d2.transfer import DetectorOutputs, DetectorTransfer
from cdl_d2.tv import build_detector
from cdl_d2.tv.backbone import STRIDES
from tests.d2.conftest import small_cfg, small_model
from tests.tv.conftest import tiny_config

LEVELS = dict(zip(("p2", "p3", "p4", "p5", "p6"), STRIDES, strict=True))
RENAMED = {
    "backbone.body.": "backbone.bottom_up.pyramid.",
    "rpn.head.conv.0.0.": "proposal_generator.rpn_head.conv.",
    "rpn.head.cls_logits.": "proposal_generator.rpn_head.objectness_logits.",
    "rpn.head.bbox_pred.": "proposal_generator.rpn_head.anchor_deltas.",
    "roi_heads.box_head.fc6.": "roi_heads.box_head.fc1.",
    "roi_heads.box_head.fc7.": "roi_heads.box_head.fc2.",
    "roi_heads.mask_head.0.0.": "roi_heads.mask_head.mask_fcn1.",
    "roi_heads.mask_head.0.1.": "roi_heads.mask_head.mask_fcn1.norm.",
    "roi_heads.mask_predictor.conv5_mask.": "roi_heads.mask_head.deconv.",
}
for i in range(4):
    for layer, block in (("lateral", "inner"), ("output", "layer")):
        RENAMED[f"backbone.fpn.{block}_blocks.{i}.0."] = f"backbone.fpn_{layer}{i + 2}."
        RENAMED[f"backbone.fpn.{block}_blocks.{i}.1."] = f"backbone.fpn_{layer}{i + 2}.norm."


def detectron2_detector():
    cfg = small_cfg(
        *("latent", "MODEL.META_ARCHITECTURE", "CompressedRCNN", "MODEL.ROI_BOX_HEAD.NUM_FC", 2),
        *("MODEL.LATENT_RESNET.CONV4_BLOCKS", [3, 4, 6], "MODEL.LATENT_RESNET.CONV5_BLOCKS", 3),
        *("MODEL.ROI_MASK_HEAD.NORM", "BN", "MODEL.LATENT_RESNET.STEM", "conv1x1"),
    )
    return small_model(cfg).eval()


def torchvision_detector(twin):
    """torchvision's detector with the weights of Detectron2's."""
    detector, state = build_detector(tiny_config()).eval(), twin.state_dict()
    new = {}
    for name in detector.state_dict():
        for prefix, new_prefix in RENAMED.items():
            if name.startswith(prefix):
                new[name] = state[new_prefix + name.removeprefix(prefix)]
    for kind in ("weight", "bias"):  # Detectron2 has the background last, torchvision first
        predictor = "roi_heads.box_predictor."
        scores = state[f"{predictor}cls_score.{kind}"]
        deltas = state[f"{predictor}bbox_pred.{kind}"]
        masks = state[f"roi_heads.mask_head.predictor.{kind}"]
        new[f"{predictor}cls_score.{kind}"] = torch.cat([scores[-1:], scores[:-1]])
        new[f"{predictor}bbox_pred.{kind}"] = torch.cat([deltas[:4] * 0, deltas])
        new[f"roi_heads.mask_predictor.mask_fcn_logits.{kind}"] = torch.cat([masks[:1] * 0, masks])
    detector.load_state_dict(new)
    return detector


@torch.no_grad()
def detectron2_outputs(detector, latents, boxes, masks) -> DetectorOutputs:
    pyramid, heads = detector.backbone(latents), detector.roi_heads
    objectness, deltas = detector.proposal_generator.rpn_head([pyramid[level] for level in LEVELS])
    return DetectorOutputs(
        pyramid,
        dict(zip(LEVELS, objectness, strict=True)),
        dict(zip(LEVELS, deltas, strict=True)),
        *heads.box_predictor(heads.box_head(boxes)),
        heads.mask_head.layers(masks),
    )


@torch.no_grad()
def torchvision_outputs(detector, latents, boxes, masks) -> DetectorOutputs:
    pyramid, heads = detector.backbone(latents), detector.roi_heads
    objectness, deltas = detector.rpn.head(list(pyramid.values()))
    scores, box_deltas = heads.box_predictor(heads.box_head(boxes))
    return DetectorOutputs(
        pyramid,
        dict(zip(pyramid, objectness, strict=True)),
        dict(zip(pyramid, deltas, strict=True)),
        scores,
        box_deltas[:, 4:],
        heads.mask_predictor(heads.mask_head(masks))[:, 1:],
    )


def shake(detector):
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.mul_(1.1).add_(0.01)
    return detector


def test_equal_weights_give_equal_pyramids_outputs_and_losses():
    twin = detectron2_detector()
    inputs = torch.randn(2, 192, 8, 6).round(), torch.randn(5, 16, 7, 7), torch.randn(4, 16, 14, 14)
    students = (
        detectron2_outputs(twin, *inputs),
        torchvision_outputs(torchvision_detector(twin), *inputs),
    )
    shaken = shake(twin)
    teachers = (
        detectron2_outputs(shaken, *inputs),
        torchvision_outputs(torchvision_detector(shaken), *inputs),
    )
    for outputs, expected in (students, teachers):
        for level, name in LEVELS.items():
            assert torch.allclose(outputs.pyramid[level], expected.pyramid[name], atol=1e-4)
            assert torch.allclose(outputs.objectness[level], expected.objectness[name], atol=1e-5)
    sizes = [(128, 96), (100, 50)]
    strides = {level: STRIDES[name] for level, name in LEVELS.items()}
    first = DetectorTransfer()(students[0], teachers[0], sizes, strides)
    second = DetectorTransfer()(students[1], teachers[1], sizes, STRIDES)
    assert len(first) == len(DetectorTransfer.KNOWN)
    for name, loss in first.items():
        assert loss > 0
        assert torch.isclose(loss, second[name], rtol=1e-4, atol=1e-7), name
