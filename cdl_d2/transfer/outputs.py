"""Output-level transfer: the five terms of formula (2) of *Learning in Compressed Domain via
Knowledge Transfer*.

The teacher's predictions serve as soft labels over all anchors, all sampled proposals and all
classes. Each term is an average over its elements, computed in float32, and is zero with no
gradient from the data when there are no elements. Cross entropies are given less the teacher's own
entropy, which is a constant: their gradients are those of the formula, and equal outputs give 0.

Shapes: A anchors of a batch, R sampled proposals, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from cdl_d2.errors import CdlError


def objectness_transfer_loss(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, valid: torch.Tensor | None = None
) -> torch.Tensor:
    """Binary cross entropy of objectness, first term of formula (2).

    Args:
        student_logits, teacher_logits: N x A logits.
        valid: N x A booleans, the anchors to compare; default all.
    """
    return _mean(_soft_bce(student_logits, teacher_logits), valid)


def anchor_delta_transfer_loss(
    student_deltas: torch.Tensor, teacher_deltas: torch.Tensor, valid: torch.Tensor | None = None
) -> torch.Tensor:
    """Smooth L1 (beta 1) between anchor deltas, second term of formula (2).

    Args:
        student_deltas, teacher_deltas: N x A x 4.
        valid: N x A booleans, the anchors to compare; default all.
    """
    return _mean(_smooth_l1(student_deltas, teacher_deltas).mean(-1), valid)


def class_transfer_loss(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence D(teacher || student) of classes, third term of formula (2).

    Args:
        student_logits, teacher_logits: R x (K + 1) logits.
    """
    _check_shapes(student_logits, teacher_logits)
    divergence = F.kl_div(
        F.log_softmax(student_logits.float(), dim=1),
        F.log_softmax(teacher_logits.float(), dim=1),
        reduction="none",
        log_target=True,
    )
    return _mean(divergence.sum(1))


def sigmoid_class_transfer_loss(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor
) -> torch.Tensor:
    """class_transfer_loss of heads that tell each class from all others by itself: the sum over
    classes of the divergences of two probabilities, the class's and the rest's.

    Args:
        student_logits, teacher_logits: R x K logits, without one for the background.
    """
    return _mean(_soft_bce(student_logits, teacher_logits).sum(1))


def box_delta_transfer_loss(
    student_deltas: torch.Tensor, teacher_deltas: torch.Tensor
) -> torch.Tensor:
    """Smooth L1 (beta 1) between the boxes of all classes, fourth term of formula (2).

    Args:
        student_deltas, teacher_deltas: R x 4K, or R x 4 for class-agnostic boxes.
    """
    return _mean(_smooth_l1(student_deltas, teacher_deltas))


def mask_transfer_loss(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy between the masks of all classes, fifth term of formula (2).

    Args:
        student_logits, teacher_logits: R x K x S x S logits of S x S pixels.
    """
    return _mean(_soft_bce(student_logits, teacher_logits))


def _soft_bce(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    _check_shapes(student_logits, teacher_logits)
    student, teacher = student_logits.float(), teacher_logits.float()
    labels = teacher.sigmoid()
    bce = F.binary_cross_entropy_with_logits
    return bce(student, labels, reduction="none") - bce(teacher, labels, reduction="none")


def _smooth_l1(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    _check_shapes(student, teacher)
    return F.smooth_l1_loss(student.float(), teacher.float(), reduction="none")


def _mean(elements: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
    if valid is None:
        return elements.sum() / max(elements.numel(), 1)
    return (elements * valid).sum() / valid.sum().clamp(min=1)


def _check_shapes(student: torch.Tensor, teacher: torch.Tensor) -> None:
    if student.shape != teacher.shape:
        raise CdlError(
            f"student output {tuple(student.shape)} and teacher output {tuple(teacher.shape)} "
            "differ in shape: both need the same anchors, classes and mask resolution"
        )
