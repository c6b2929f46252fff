"""Detections of an RGB model as labels of a student's proposal network."""

import copy

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

import torch
from detectron2.structures import Instances

from cdl_d2.conversion.proposal_labels import LEAST_SCORE, WEIGHT
from cdl_d2.d2.applications.proposal_labels import proposal_labels
from tests.d2.conftest import make_item, small_cfg, small_model

SIZE = 64, 80
ALL = "TEST.DETECTIONS_PER_IMAGE", 200
COARSE = [
    *("MODEL.RPN.IN_FEATURES", ["p3", "p4", "p5", "p6"]),
    *("MODEL.ANCHOR_GENERATOR.SIZES", [[16], [32], [64], [128]]),
]


@pytest.fixture(scope="module")
def networks():
    """A student without anchors of P2, and its teacher, whose detections have various scores."""
    student, teacher = (small_model(small_cfg("pixel", *ALL, *o)).eval() for o in (COARSE, ()))
    generator = torch.manual_seed(1)
    for model in (student, teacher):
        head = model.roi_heads.box_predictor.cls_score
        head.weight.data = 0.5 * torch.randn(head.weight.shape, generator=generator)
    return student, teacher


def images(count: int):
    return [make_item(*SIZE, seed=seed) for seed in range(count)]


def run(model, samples):
    with torch.no_grad():
        return model.inference(samples, do_postprocess=False)


def test_the_loss_is_that_of_a_training_with_confident_detections_as_labels(networks, storage):
    student, teacher = networks
    labels, samples = proposal_labels(student, teacher), images(2)
    with labels.recorded():
        detections = run(teacher, samples)
        run(student, samples)
    boxes = [d.pred_boxes[d.scores > LEAST_SCORE] for d in detections]
    assert 0 < sum(map(len, boxes)) < sum(map(len, detections))
    trained = copy.deepcopy(student).proposal_generator.train()
    batch = student.preprocess_image(samples)
    with torch.no_grad():
        torch.manual_seed(0)
        targets = [Instances(SIZE, gt_boxes=b) for b in boxes]
        _, losses = trained(batch, student.backbone(batch.tensor), targets)
    assert float(labels.loss()) == pytest.approx(WEIGHT * float(sum(losses.values())), rel=1e-5)


def test_images_that_run_one_by_one_have_their_own_labels(networks):
    student, teacher = networks
    labels, alone = proposal_labels(student, teacher), []
    for sample in images(3):
        with labels.recorded():
            run(teacher, [sample])
            run(student, [sample])
        alone.append(float(labels.loss()))
    with labels.recorded():
        for model in (teacher, student):
            for sample in images(3):
                run(model, [sample])
    assert float(labels.loss()) == pytest.approx(sum(alone) / 3, rel=1e-5)
    assert len(set(alone)) == 3


def test_nothing_is_left_behind(networks):
    student, teacher = networks
    labels, [sample] = proposal_labels(student, teacher), images(1)
    before, state = run(student, [sample]), torch.get_rng_state()
    with labels.recorded():
        run(teacher, [sample])
        run(student, [sample])
    with pytest.raises(IndexError), labels.recorded():
        run(student, [sample])  # for which there are no labels
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in student.modules())
    after = run(student, [sample])
    assert torch.equal(before[0].pred_boxes.tensor, after[0].pred_boxes.tensor)


def test_only_a_student_without_levels_of_its_teacher_has_labels(networks):
    student, teacher = networks
    assert proposal_labels(student, teacher)
    assert not proposal_labels(teacher, teacher) and not proposal_labels(student, student)
    retinanet = small_model(small_cfg("latent_retinanet", "MODEL.RETINANET.NORM", "BN"))
    assert not proposal_labels(retinanet, retinanet)
