import pytest
import torch
import torch.nn.functional as F

from cdl_d2.transfer import (
    anchor_delta_transfer_loss,
    box_delta_transfer_loss,
    class_transfer_loss,
    mask_transfer_loss,
    objectness_transfer_loss,
    sigmoid_class_transfer_loss,
)

LOSSES = {
    objectness_transfer_loss: (2, 30),
    anchor_delta_transfer_loss: (2, 30, 4),
    class_transfer_loss: (7, 5),
    sigmoid_class_transfer_loss: (7, 5),
    box_delta_transfer_loss: (7, 16),
    mask_transfer_loss: (3, 4, 6, 6),
}


def pair(shape) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(shape, requires_grad=True), torch.randn(shape)


@pytest.mark.parametrize("loss", LOSSES)
def test_transfer_loss_is_zero_for_equal_outputs_and_positive_otherwise(loss):
    student, teacher = pair(LOSSES[loss])
    assert loss(teacher, teacher).abs() < 1e-6
    assert loss(student, teacher) > 0


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_points_to_the_teacher(loss):
    student, teacher = pair(LOSSES[loss])
    before = loss(student, teacher)
    before.backward()
    step = (student - 0.1 * student.grad).detach()
    assert loss(step, teacher) < before


@pytest.mark.parametrize("loss", LOSSES)
def test_no_elements_give_zero_with_a_gradient(loss):
    shape = (0, *LOSSES[loss][1:])
    student = torch.zeros(shape, requires_grad=True)
    value = loss(student, torch.zeros(shape))
    value.backward()
    assert value == 0 and student.grad is not None


@pytest.mark.parametrize("loss", LOSSES)
def test_outputs_of_another_shape_are_rejected(loss):
    with pytest.raises(ValueError, match="differ in shape"):
        loss(torch.zeros(LOSSES[loss]), torch.zeros(5, 5, 5))


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_outputs_are_compared_in_float32(loss):
    student, teacher = pair(LOSSES[loss])
    value = loss(student.bfloat16(), teacher.bfloat16())
    assert value.dtype == torch.float32


def test_class_loss_is_the_divergence_of_the_student_from_the_teacher():
    student, teacher = pair((7, 5))
    p, q = teacher.softmax(1), student.softmax(1)
    expected = (p * (p / q).log()).sum(1).mean()
    assert torch.isclose(class_transfer_loss(student, teacher), expected)


def test_sigmoid_class_loss_is_the_sum_of_the_divergences_of_each_class():
    student, teacher = pair((7, 5))
    p, q = teacher.sigmoid(), student.sigmoid()
    divergences = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    assert torch.isclose(sigmoid_class_transfer_loss(student, teacher), divergences.sum(1).mean())


@pytest.mark.parametrize("loss", [objectness_transfer_loss, mask_transfer_loss])
def test_binary_losses_have_the_gradient_of_binary_cross_entropy(loss):
    student, teacher = pair(LOSSES[loss])
    loss(student, teacher).backward()
    gradient, student.grad = student.grad, None
    F.binary_cross_entropy_with_logits(student, teacher.sigmoid()).backward()
    assert torch.allclose(gradient, student.grad)


@pytest.mark.parametrize("loss", [objectness_transfer_loss, anchor_delta_transfer_loss])
def test_anchors_that_are_not_valid_do_not_count(loss):
    student, teacher = pair(LOSSES[loss])
    valid = torch.rand(2, 30) > 0.5
    expected = loss(student[valid][None], teacher[valid][None])
    assert torch.isclose(loss(student, teacher, valid), expected)
    nothing = loss(student, teacher, torch.zeros(2, 30, dtype=torch.bool))
    assert nothing == 0 and nothing.requires_grad
