"""The backbone that docs/extending.md adds, from outside of the package."""

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.modeling import BACKBONE_REGISTRY

from cdl_d2.codec import Codec
from cdl_d2.errors import CdlError
from tests.d2.conftest import make_item, small_model
from tests.documents import ROOT, blocks

NAME = "build_plain_fpn_backbone"


@pytest.fixture
def student(transfer_cfg):
    """A small Mask R-CNN on the example's backbone, with a teacher."""
    [example] = [b.text for b in blocks(ROOT / "docs/extending.md") if f"def {NAME}" in b.text]
    exec(example, {"__name__": "my_student"})
    transfer_cfg.MODEL.BACKBONE.NAME = NAME
    yield small_model(transfer_cfg)
    BACKBONE_REGISTRY._obj_map.pop(NAME)


def test_a_backbone_from_outside_is_distilled_and_reads_latents(student, storage):
    optimizer = torch.optim.SGD(student.parameters(), 1e-3)
    items, sums = [make_item(96, 128), make_item(70, 50, seed=1)], []
    for _ in range(3):
        torch.manual_seed(0)  # the same sampled proposals
        losses = student(items)
        sums.append(sum(losses.values()))
        optimizer.zero_grad()
        sums[-1].backward()
        optimizer.step()
    assert sums[-1] < sums[0]
    assert {"loss_transfer_features", "loss_transfer_class", "loss_mask"} <= losses.keys()
    trained = student.backbone.bottom_up.parameters()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    assert not any("teacher" in name for name in student.state_dict())
    [output] = student.eval()([{"image": items[0]["image"], "height": 96, "width": 128}])
    assert output["instances"].image_size == (96, 128) and output["bits"] > 0


def test_its_input_rejects_latents_of_another_codec(student):
    other = Codec.load("tiny-bmshj2018-hyperprior", 0)
    sample = other.encode(torch.zeros(3, 96, 128))
    with pytest.raises(CdlError):
        student.eval()(
            [{"latent": sample.y_hat, "codec_identity": other.identity, "image_size": (96, 128)}]
        )
