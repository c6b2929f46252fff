"""Mask losses for data in which some objects have a box only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.structures import Instances
from torch import nn

HAS_MASK = "gt_has_mask"  # field of Instances: G booleans


@contextmanager
def without_unmasked(model: nn.Module) -> Iterator[None]:
    """Keep proposals of objects without a mask from the mask head of an R-CNN.

    The `instances` of the batch have `gt_has_mask`. Models without a mask head are not changed.
    """
    head = getattr(getattr(model, "roi_heads", None), "mask_head", None)
    if head is None:
        yield
        return
    hook = head.register_forward_pre_hook(_drop_unmasked)
    try:
        yield
    finally:
        hook.remove()


def has_mask(proposals: Instances) -> torch.Tensor:
    """Return P booleans, False for the proposals matched to an object without a mask."""
    if proposals.has(HAS_MASK):
        return proposals.get(HAS_MASK)
    return torch.ones(len(proposals), dtype=torch.bool, device=proposals.proposal_boxes.device)


def _drop_unmasked(head: nn.Module, inputs: tuple[Any, list[Instances]]) -> tuple[Any, ...]:
    features, proposals = inputs
    masked = [has_mask(instances) for instances in proposals]
    if isinstance(features, torch.Tensor):  # pooled, a row per proposal
        features = features[torch.cat(masked)]
    return features, [p[mask] for p, mask in zip(proposals, masked, strict=True)]
