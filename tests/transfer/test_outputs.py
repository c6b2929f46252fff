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
    ours, theirs = pair(LOSSES[loss])
    assert loss(theirs, theirs).abs() < 1e-6
    assert loss(ours, theirs) > 0


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_points_to_the_teacher(loss):
    ours, theirs = pair(LOSSES[loss])
    before = loss(ours, theirs)
    before.backward()
    step = (ours - 0.1 * ours.grad).detach()
    assert loss(step, theirs) < before


@pytest.mark.parametrize("loss", LOSSES)
def test_no_elements_give_zero_with_a_gradient(loss):
    shape = (0, *LOSSES[loss][1:])
    ours = torch.zeros(shape, requires_grad=True)
    value = loss(ours, torch.zeros(shape))
    value.backward()
    assert value == 0 and ours.grad is not None


@pytest.mark.parametrize("loss", LOSSES)
def test_outputs_of_another_shape_are_refused(loss):
    with pytest.raises(ValueError, match="differ in shape"):
        loss(torch.zeros(LOSSES[loss]), torch.zeros(5, 5, 5))


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_outputs_are_compared_in_float32(loss):
    ours, theirs = pair(LOSSES[loss])
    value = loss(ours.bfloat16(), theirs.bfloat16())
    assert value.dtype == torch.float32


def test_class_loss_is_the_divergence_of_the_student_from_the_teacher():
    ours, theirs = pair((7, 5))
    p, q = theirs.softmax(1), ours.softmax(1)
    expected = (p * (p / q).log()).sum(1).mean()
    assert torch.isclose(class_transfer_loss(ours, theirs), expected)


def test_sigmoid_class_loss_is_the_sum_of_the_divergences_of_each_class():
    ours, theirs = pair((7, 5))
    p, q = theirs.sigmoid(), ours.sigmoid()
    each = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    assert torch.isclose(sigmoid_class_transfer_loss(ours, theirs), each.sum(1).mean())


@pytest.mark.parametrize("loss", [objectness_transfer_loss, mask_transfer_loss])
def test_binary_losses_have_the_gradient_of_binary_cross_entropy(loss):
    ours, theirs = pair(LOSSES[loss])
    loss(ours, theirs).backward()
    gradient, ours.grad = ours.grad, None
    F.binary_cross_entropy_with_logits(ours, theirs.sigmoid()).backward()
    assert torch.allclose(gradient, ours.grad)


@pytest.mark.parametrize("loss", [objectness_transfer_loss, anchor_delta_transfer_loss])
def test_anchors_that_are_not_valid_do_not_count(loss):
    ours, theirs = pair(LOSSES[loss])
    valid = torch.rand(2, 30) > 0.5
    expected = loss(ours[valid][None], theirs[valid][None])
    assert torch.isclose(loss(ours, theirs, valid), expected)
    nothing = loss(ours, theirs, torch.zeros(2, 30, dtype=torch.bool))
    assert nothing == 0 and nothing.requires_grad
