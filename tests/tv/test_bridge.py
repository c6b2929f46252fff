from dataclasses import replace

import pytest
import torch

from cdl_d2.nn import fit_bridge
from cdl_d2.nn.bridge.bridge import Bridge
from cdl_d2.nn.bridge.linear_bridge import LinearBridge
from cdl_d2.transfer import DetectorTransfer
from cdl_d2.tv import TransferMaskRCNN, build_detector, save_detector
from cdl_d2.tv.checkpoint import load_initial_weights
from tests.tv.conftest import make_item, tiny_config, tiny_detector

ENTRIES = ["conv1", "stem", "res2", "res3"]


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_pixel_detector_loads_into_all_behind_the_entry_and_nothing_else(entry, tmp_path):
    teacher, student = tiny_detector("image"), tiny_detector(bridge=entry)
    save_detector(tmp_path / "teacher.pth", tiny_config("image"), teacher.state_dict())
    before = {k: v.clone() for k, v in student.state_dict().items()}
    count = load_initial_weights(student, str(tmp_path / "teacher.pth"))
    (made,) = [n for n, m in student.named_modules() if isinstance(m, (Bridge, LinearBridge))]
    own = {key for key in before if key.startswith(made)} - {f"{made}.weight"}
    assert count == len(before) - len(own)
    theirs = [v for k, v in teacher.state_dict().items() if "inner_blocks.3" in k]
    last = 2 if entry == "res3" else 3
    ours = [v for k, v in student.state_dict().items() if f"inner_blocks.{last}." in k]
    assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("margin", [False, True])
def test_a_bridged_student_is_taught_at_odd_sizes_and_every_parameter_learns(entry, margin):
    student = tiny_detector(bridge=entry, margin=margin)
    module = TransferMaskRCNN(student, tiny_detector("image"), DetectorTransfer()).train()
    losses = module([make_item(70, 90), make_item(97, 47, boxes=((2, 2, 30, 30),), seed=1)])
    terms = {k for k in losses if "transfer" in k}
    assert len(terms) == len(DetectorTransfer.KNOWN)
    sum(losses.values()).backward()
    learning = [p for p in module.student.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learning)
    found = module.student.eval()([make_item(70, 90)])[0]
    assert found["boxes"].shape[1] == 4 and found["bits"] > 0


def test_a_bridged_student_reads_codecs_that_were_trained_apart():
    config = tiny_config()
    config = replace(
        config,
        codec=replace(config.codec, qualities=(0, 2)),
        architecture=replace(config.architecture, bridge="conv1"),
    )
    student = build_detector(config).train()
    items = [make_item(160, 160, seed=seed) for seed in range(24)]
    for item in items:  # patches of 16 pixels a side, which a codec keeps, unlike noise
        item["image"] = item["image"][:, ::16, ::16].repeat_interleave(16, 1)
        item["image"] = item["image"].repeat_interleave(16, 2)
    by_all = student.coded_input.encode_by_all
    assert fit_bridge(student, items, 24, student.encode, student.normalize, by_all) > 0.8
    low, high = (next(v for k, v in by_all(items[0]).items() if k.quality == q) for q in (0, 2))
    identity = next(i for i in student.coded_input.identities if i.quality == 0)
    read = student.encode({"latent": low, "codec_identity": identity})["latent"]
    assert (read - high).square().mean() < (low - high).square().mean() / 2
    losses = TransferMaskRCNN(student, tiny_detector("image"), DetectorTransfer()).train()(
        items[:2]
    )
    assert all(loss.isfinite() for loss in losses.values())


def test_an_unknown_entry_is_named():
    with pytest.raises(ValueError, match="entry 'res5' is not one of"):
        tiny_detector(bridge="res5")
