"""Detectron2's GeneralizedRCNNWithTTA, which resizes and flips an item's image, on our models."""

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.modeling import GeneralizedRCNNWithTTA

from cdl_d2.d2.model_input import build_coded_input
from tests.d2.conftest import make_item, small_cfg, small_model

PLAIN = ("MODEL.META_ARCHITECTURE", "CompressedRCNN")


def augmented(cfg, model, item):
    """Return the detections with augmentation in a sample: boxes, scores and masks."""
    with torch.no_grad():
        instances = GeneralizedRCNNWithTTA(cfg, model)([item])[0]["instances"]
    return instances.pred_boxes.tensor, instances.scores, instances.pred_masks


@pytest.mark.parametrize("sizes", [(96,), (128, 160)], ids=["flipped", "resized"])
@pytest.mark.parametrize("domain", ["latent", "reconstruction"])
def test_an_item_that_was_encoded_and_then_augmented_is_encoded_again(domain, sizes):
    cfg = small_cfg(domain, *PLAIN, "TEST.AUG.MIN_SIZES", sizes, "TEST.AUG.FLIP", True)
    model, image = small_model(cfg).eval(), make_item(96, 128)
    del image["instances"]
    encoded = build_coded_input(cfg).encode(image)
    expected = augmented(cfg, model, image)
    assert len(expected[0])
    assert all(map(torch.equal, augmented(cfg, model, encoded), expected))
