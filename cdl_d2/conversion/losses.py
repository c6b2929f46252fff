"""Losses without labels: a student reproduces a teacher's features and outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from cdl_d2.errors import CdlError

LOGITS = ("", "out", "aux", "logits")  # names of class logits in outputs
SMALLEST_VARIANCE = 1e-6


def feature_loss(student: Any, teacher: Any) -> torch.Tensor:
    """Return the squared error over the teacher's variance: 0 if equal, 1 for a constant mean.

    Args:
        student: a tensor, or tensors in lists, tuples and dicts.
        teacher: the same structure; the mean over its tensors is returned.
    """
    losses = [
        F.mse_loss(s.float(), t.float()) / t.float().var().clamp(min=SMALLEST_VARIANCE)
        for _, s, t in _pairs(student, teacher)
        if t.numel() > 1
    ]
    return torch.stack(losses).mean() if losses else torch.zeros(())


def output_loss(student: Any, teacher: Any) -> torch.Tensor:
    """Return the divergence D(teacher || student) of class logits, and errors of all else.

    Logits are tensors of at least two dimensions without a name, or with one of LOGITS; classes are
    the last dimension of three, else the second. Other tensors, such as boxes, give `feature_loss`.
    Losses of tensors with the same name are averaged, those of names are summed.

    Args:
        student: output of a network: a tensor, or tensors in lists, tuples and dicts.
        teacher: output of the same structure.
    """
    losses: dict[str, list[torch.Tensor]] = {}
    for name, s, t in _pairs(student, teacher):
        if not t.numel():  # of no objects
            continue
        if name in LOGITS and t.ndim > 1:
            loss = _divergence(s.float(), t.float(), -1 if t.ndim == 3 else 1)
        else:
            loss = feature_loss(s, t)
        losses.setdefault(name, []).append(loss)
    means = [torch.stack(group).mean() for group in losses.values()]
    return torch.stack(means).sum() if means else torch.zeros(())


def _divergence(student: torch.Tensor, teacher: torch.Tensor, dim: int) -> torch.Tensor:
    student, teacher = F.log_softmax(student, dim), F.log_softmax(teacher, dim)
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim).mean()


def _pairs(
    student: Any, teacher: Any, name: str = ""
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Yield the float tensors of two structures in pairs, each with its name.

    What only one of two dicts has is left out, and so are the first elements of a longer list: a
    student without the finest level of a pyramid is compared at the levels that both have.

    Raises:
        CdlError: if tensors differ in shape.
    """
    if isinstance(teacher, torch.Tensor) and isinstance(student, torch.Tensor):
        if student.shape != teacher.shape:
            raise CdlError(
                f"the student returns {tuple(student.shape)}, its teacher {tuple(teacher.shape)}"
            )
        if teacher.is_floating_point():
            yield name, student, teacher
    elif isinstance(teacher, Mapping) and isinstance(student, Mapping):
        for key in teacher:
            if key in student:
                yield from _pairs(student[key], teacher[key], str(key))
    elif isinstance(teacher, list | tuple) and isinstance(student, list | tuple):
        count = min(len(student), len(teacher))
        pairs = zip(student[len(student) - count :], teacher[len(teacher) - count :], strict=True)
        for s, t in pairs:
            yield from _pairs(s, t, name)


def named_tensors(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the float tensors in lists, tuples and dicts, each with the last key above it."""
    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from named_tensors(item, str(key))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from named_tensors(item, name)
