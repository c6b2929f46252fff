import pytest
import torch

from cdl_d2.transfer import (
    DetectorOutputs,
    DetectorTransfer,
    anchors_by_level,
    anchors_on_images,
)

GRIDS = {"p2": (16, 16), "p3": (8, 8), "p4": (4, 4), "p5": (2, 2), "p6": (1, 1)}
STRIDES = {level: 4 * 2**i for i, level in enumerate(GRIDS)}
SIZES = [(64, 64), (32, 32)]


def outputs(seed: int) -> DetectorOutputs:
    torch.manual_seed(seed)
    return DetectorOutputs(
        pyramid={level: torch.randn(2, 8, *grid) for level, grid in GRIDS.items()},
        objectness={level: torch.randn(2, 3, *grid) for level, grid in GRIDS.items()},
        anchor_deltas={level: torch.randn(2, 12, *grid) for level, grid in GRIDS.items()},
        class_logits=torch.randn(6, 4),
        box_deltas=torch.randn(6, 12),
        mask_logits=torch.randn(3, 3, 7, 7),
    )


def test_padding_is_left_out_of_the_anchors():
    valid = anchors_on_images(outputs(0).objectness, SIZES, STRIDES)
    assert valid[0].all()
    assert valid[1].sum() == 3 * (8 * 8 + 4 * 4 + 2 * 2 + 1 + 1)


def test_equal_outputs_have_no_loss():
    losses = DetectorTransfer()(outputs(0), outputs(0), SIZES, STRIDES)
    assert len(losses) == 6
    assert max(abs(float(v)) for v in losses.values()) < 1e-6


@pytest.mark.parametrize("anchors", ["all", "sampled"])
@pytest.mark.parametrize("term", ["objectness", "anchor_deltas"])
def test_a_term_needs_only_what_it_compares_and_is_as_large_as_among_others(term, anchors):
    student, teacher = outputs(0), outputs(1)
    student.sampled_anchors = {k: v > 0 for k, v in student.objectness.items()}
    together = DetectorTransfer(anchors=anchors)(student, teacher, SIZES, STRIDES)
    for detector in (student, teacher):
        alone = {term: getattr(detector, term)}
        for name in ("objectness", "anchor_deltas", "class_logits", "box_deltas", "mask_logits"):
            setattr(detector, name, alone.get(name))
    losses = DetectorTransfer(weights={term: 1.0}, anchors=anchors)(
        student, teacher, SIZES, STRIDES
    )
    assert losses == {f"loss_transfer_{term}": together[f"loss_transfer_{term}"]}


def test_without_a_common_level_there_is_no_loss_and_a_gradient():
    student, teacher = outputs(0), outputs(1)
    for name in ("pyramid", "objectness", "anchor_deltas"):
        renamed = {f"other_{k}": v for k, v in getattr(teacher, name).items()}
        setattr(teacher, name, renamed)
    for feature in student.pyramid.values():
        feature.requires_grad_()
    weights = dict.fromkeys(("features", "objectness", "anchor_deltas"), 1.0)
    losses = DetectorTransfer(weights=weights)(student, teacher, SIZES, STRIDES)
    assert len(losses) == 3 and not any(losses.values())
    sum(losses.values()).backward()
    assert not any(feature.grad.any() for feature in student.pyramid.values())


def test_what_lies_in_the_padding_counts_only_if_asked_for():
    student, teacher = outputs(0), outputs(0)
    teacher.pyramid["p2"][1, :, 8:] += 1
    teacher.objectness["p2"][1, :, 8:] += 1
    ignored = DetectorTransfer()(student, teacher, SIZES, STRIDES)
    counted = DetectorTransfer(ignore_padding=False)(student, teacher, SIZES, STRIDES)
    for name in ("loss_transfer_features", "loss_transfer_objectness"):
        assert abs(ignored[name]) < 1e-6 < counted[name]


def test_of_sampled_anchors_the_others_do_not_count():
    student, teacher = outputs(0), outputs(0)
    transfer = DetectorTransfer(anchors="sampled")
    chosen = torch.zeros(2, sum(logits[0].numel() for logits in student.objectness.values()))
    chosen = chosen.bool()
    chosen[0, 3 * (5 * 16 + 7) + 2] = True  # of p2: row 5, column 7, anchor 2
    student.sampled_anchors = anchors_by_level(chosen, student.objectness)
    assert student.sampled_anchors["p2"][0, 2, 5, 7]
    assert sum(mask.sum() for mask in student.sampled_anchors.values()) == 1
    teacher.objectness["p2"][0, 2, 5, 6] += 1
    teacher.anchor_deltas["p2"][0, 4:8, 5, 7] += 1
    losses = transfer(student, teacher, SIZES, STRIDES)
    assert losses["loss_transfer_objectness"] == losses["loss_transfer_anchor_deltas"] == 0
    teacher.anchor_deltas["p2"][0, 8:, 5, 7] += 1
    alone = transfer(student, teacher, SIZES, STRIDES)["loss_transfer_anchor_deltas"]
    assert torch.isclose(alone, torch.tensor(0.5))  # smooth L1 of 1, averaged over one anchor


def test_weights_scale_and_choose_the_terms():
    weights = {"features": 2.0, "class": 0.5, "mask": 0.0}
    plain = DetectorTransfer()(outputs(0), outputs(1), SIZES, STRIDES)
    chosen = DetectorTransfer(3.0, weights)(outputs(0), outputs(1), SIZES, STRIDES)
    assert chosen.keys() == {"loss_transfer_features", "loss_transfer_class"}
    assert torch.isclose(chosen["loss_transfer_features"], 6 * plain["loss_transfer_features"])
    assert torch.isclose(chosen["loss_transfer_class"], 1.5 * plain["loss_transfer_class"])
    assert not DetectorTransfer(0.0).terms


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": {"boxes": 1.0}}, "term 'boxes'"),
        ({"distance": "cosine"}, "'cosine'"),
        ({"anchors": "some"}, "anchors 'some'"),
    ],
)
def test_unknown_choices_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        DetectorTransfer(**arguments)
