import pytest
import torch
import torch.nn.functional as F

from cdl_d2.transfer import ClassifierTransfer


def outputs(seed):
    torch.manual_seed(seed)
    return {"c4": torch.randn(2, 6, 4, 4), "c5": torch.randn(2, 8, 2, 2)}, torch.randn(2, 5)


def test_the_losses_are_those_of_formula_1():
    (student, logits), (teacher, soft) = outputs(0), outputs(1)
    losses = ClassifierTransfer(2.0, {"c5": 1.0, "class": 1.0})(student, teacher, logits, soft)
    assert losses.keys() == {"loss_transfer_c5", "loss_transfer_class"}
    p, q = soft.softmax(1), logits.softmax(1)
    divergence = (p * (p / q).log()).sum(1).mean()
    assert torch.isclose(losses["loss_transfer_class"], 2 * divergence)
    assert torch.isclose(losses["loss_transfer_c5"], 2 * F.mse_loss(student["c5"], teacher["c5"]))


def test_stages_have_weights_and_equal_networks_no_loss():
    features, logits = outputs(0)
    transfer = ClassifierTransfer(1.0, {"c4": 0.5, "c5": 1.0})
    assert all(abs(v) < 1e-6 for v in transfer(features, features, logits, logits).values())
    assert not ClassifierTransfer(1.0, {"c4": 0.0}).terms


def test_features_that_differ_in_shape_are_named():
    (student, logits), (teacher, soft) = outputs(0), outputs(1)
    teacher["c5"] = torch.randn(2, 8, 4, 4)
    with pytest.raises(ValueError, match="level c5 is"):
        ClassifierTransfer()(student, teacher, logits, soft)
