"""Losses without labels: a student reproduces a teacher's features and outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from cdl_d2.errors import CdlError

SMALLEST_VARIANCE = 1e-6


def feature_loss(student: Any, teacher: Any) -> torch.Tensor:
    """Return the squared error over the teacher's variance: 0 if equal, 1 for a constant mean.

    Args:
        student: a tensor, or tensors in lists, tuples and dicts.
        teacher: the same structure; the mean over its tensors is returned.
    """
    losses = [
        F.mse_loss(s.float(), t.float()) / t.float().var().clamp(min=SMALLEST_VARIANCE)
        for (_, s), (_, t) in _pairs(student, teacher)
        if t.numel() > 1
    ]
    return torch.stack(losses).mean() if losses else torch.zeros(())


def output_loss(student: Any, teacher: Any) -> torch.Tensor:
    """Return the divergence D(teacher || student) of class logits, and errors of all else.

    Logits are tensors of at least two dimensions without a name, or with one of LOGITS; classes are
    the last dimension of three, else the second. Other tensors, such as boxes, give `feature_loss`.

    Args:
        student: output of a network: a tensor, or tensors in lists, tuples and dicts.
        teacher: output of the same structure.
    """
    losses = []
    for (name, s), (_, t) in _pairs(student, teacher):
        if name in LOGITS and t.ndim > 1:
            losses.append(_divergence(s.float(), t.float(), -1 if t.ndim == 3 else 1))
        else:
            losses.append(feature_loss(s, t))
    return torch.stack(losses).sum() if losses else torch.zeros(())


LOGITS = ("", "out", "aux", "logits")  # names of class logits in outputs


def _divergence(student: torch.Tensor, teacher: torch.Tensor, dim: int) -> torch.Tensor:
    student, teacher = F.log_softmax(student, dim), F.log_softmax(teacher, dim)
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim).mean()


def _pairs(student: Any, teacher: Any) -> Iterator[tuple[tuple[str, torch.Tensor], ...]]:
    """Yield the float tensors of two structures, with their names, in pairs."""
    pairs = list(named_tensors(student)), list(named_tensors(teacher))
    shapes = [[tuple(tensor.shape) for _, tensor in tensors] for tensors in pairs]
    if shapes[0] != shapes[1]:
        raise CdlError(f"the student returns {shapes[0]}, its teacher {shapes[1]}")
    yield from zip(*pairs, strict=True)


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
