import pytest
import torch

from cdl_d2.transfer import DetectorTransfer
from cdl_d2.tv import TransferMaskRCNN
from tests.tv.conftest import TINY, make_item, tiny_detector

TERMS = DetectorTransfer.KNOWN


def transfer_losses(losses):
    return {k.removeprefix("loss_transfer_"): v for k, v in losses.items() if "transfer" in k}


def taught(domain="latent", masks="all", transfer=None, student=None):
    student = student or tiny_detector(domain)
    transfer = transfer or DetectorTransfer(masks=masks)
    return TransferMaskRCNN(student, tiny_detector("image"), transfer).train()


@pytest.mark.parametrize("domain", ["latent", "reconstruction"])
@pytest.mark.parametrize("masks", ["all", "foreground"])
def test_all_terms_of_formulas_2_and_3_train_the_student(domain, masks, items):
    module = taught(domain, masks)
    losses = module(items)
    assert transfer_losses(losses).keys() == TERMS
    assert all(v > 0 and v.requires_grad for v in transfer_losses(losses).values())
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in module.student.parameters())
    teacher = module.teacher
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert not any(m.training for m in teacher.modules())


@pytest.mark.parametrize("masks", ["all", "foreground"])
def test_objects_without_a_mask_leave_the_same_terms(masks, items):
    items[0]["target"]["has_mask"] = torch.tensor([False, True])
    losses = taught(masks=masks)(items)
    assert transfer_losses(losses).keys() == TERMS
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize("masks", ["all", "foreground"])
def test_a_student_equal_to_its_teacher_has_no_transfer_loss(masks, items):
    module = taught("image", masks)
    for part in module.student.modules():  # batch statistics would make the student differ
        if isinstance(part, torch.nn.BatchNorm2d):
            part.eval()
    losses = transfer_losses(module(items))
    assert losses.keys() == TERMS
    assert max(float(v.detach()) for v in losses.values()) < 1e-5


def test_through_the_teachers_heads_only_features_learn_from_the_teacher(items):
    module = taught(transfer=DetectorTransfer(heads="teacher"))
    learned = transfer_losses(module(items))
    assert learned.keys() == TERMS and all(value > 0 for value in learned.values())
    sum(value for name, value in learned.items() if name != "features").backward()
    heads = (*module.student.roi_heads.parameters(), *module.student.rpn.parameters())
    assert all(p.grad is None for p in heads)
    assert any(p.grad is not None and p.grad.any() for p in module.student.backbone.parameters())


class Watched(DetectorTransfer):
    """Keeps what the student gave."""

    def __call__(self, student, *rest):
        self.student = student
        return super().__call__(student, *rest)


@pytest.mark.parametrize("heads", ["student", "teacher"])
def test_the_anchors_that_the_task_samples_can_be_compared_alone(items, heads):
    transfer = Watched(anchors="sampled", heads=heads)
    module = taught(transfer=transfer)
    losses = transfer_losses(module(items))
    assert losses["objectness"] > 0 and losses["anchor_deltas"] > 0
    sampled = sum(each.flatten(1).sum(1) for each in transfer.student.sampled_anchors.values())
    assert sampled.tolist() == [TINY.anchors_sampled] * 2


def test_the_teacher_is_no_part_of_the_state():
    module = taught()
    assert all(key.startswith("student.") for key in module.state_dict())
    assert len(list(module.parameters())) == len(list(module.student.parameters()))


def test_heads_of_the_student_run_once(items):
    module, calls = taught(masks="foreground"), []
    heads = module.student.roi_heads
    for head in (module.student.rpn.head, heads.box_predictor, heads.mask_predictor):
        head.register_forward_hook(lambda module, *_: calls.append(module))
    module(items)
    assert len(calls) == len(set(calls)) == 3


def test_lambda_zero_asks_no_teacher(items):
    module = taught(transfer=DetectorTransfer(0.0))
    module.prepare_teacher()
    assert not transfer_losses(module(items))


@pytest.mark.parametrize("size", [(100, 64), (63, 64)])
def test_teacher_and_student_must_see_one_geometry(size):
    module, item = taught(), make_item(64, 64)
    encoded = module.student.coded_input.encode(item) | {"image": make_item(*size)["image"]}
    with pytest.raises(ValueError, match="same geometry"):
        module([encoded])


def test_the_teacher_needs_an_image():
    module = taught()
    encoded = module.student.coded_input.encode(make_item(64, 64))
    del encoded["image"]
    with pytest.raises(ValueError, match="the teacher reads images"):
        module([encoded])


def test_an_unknown_choice_of_masks_is_named():
    with pytest.raises(ValueError, match="masks 'some'"):
        taught(masks="some")
