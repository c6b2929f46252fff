"""Output-level transfer: terms of formula (2).

*Learning in Compressed Domain via Knowledge Transfer*. The teacher's predictions are soft labels
over all anchors, sampled proposals and classes. Each term is an average over its elements, in
float32, and zero without elements. The teacher's entropy, a constant, is subtracted from cross
entropies: gradients are those of the formula, and equal outputs give 0.

Shapes: N images, A anchors, R sampled proposals, K classes, S x S mask pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from cdl_d2.errors import CdlError


def objectness_transfer_loss(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, valid: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute the binary cross entropy of objectness, N x A logits, first term of formula (2).

    Only anchors where `valid`, N x A booleans, is true are compared; None for all.
    """
    return _mean(_soft_bce(student_logits, teacher_logits), valid)


def anchor_delta_transfer_loss(
    student_deltas: torch.Tensor, teacher_deltas: torch.Tensor, valid: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute smooth L1 (beta 1) of anchor deltas, N x A x 4, second term of formula (2).

    Only anchors where `valid`, N x A booleans, is true are compared; None for all.
    """
    return _mean(_smooth_l1(student_deltas, teacher_deltas).mean(-1), valid)


def class_transfer_loss(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    """Compute the divergence D(teacher || student) of R x (K + 1) logits, third term."""
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
    """Compute the third term for heads with sigmoids, R x K logits without background.

    It is the sum over classes of the divergences of binary distributions.
    """
    return _mean(_soft_bce(student_logits, teacher_logits).sum(1))


def box_delta_transfer_loss(
    student_deltas: torch.Tensor, teacher_deltas: torch.Tensor
) -> torch.Tensor:
    """Compute smooth L1 (beta 1) of box deltas, R x 4K, or R x 4 without classes, fourth term."""
    return _mean(_smooth_l1(student_deltas, teacher_deltas))


def mask_transfer_loss(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    """Compute the binary cross entropy of mask logits, R x K x S x S, fifth term."""
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
