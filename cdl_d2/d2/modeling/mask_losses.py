"""Mask losses where some objects have no mask: their boxes are learned, their masks are not."""

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

    Their `instances` have `gt_has_mask`; a model without a mask head is not changed.
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
    """Return P booleans: which sampled proposals are not of an object without a mask."""
    if proposals.has(HAS_MASK):
        return proposals.get(HAS_MASK)
    return torch.ones(len(proposals), dtype=torch.bool, device=proposals.proposal_boxes.device)


def _drop_unmasked(head: nn.Module, inputs: tuple[Any, list[Instances]]) -> tuple[Any, ...]:
    features, proposals = inputs
    masked = [has_mask(each) for each in proposals]
    if isinstance(features, torch.Tensor):  # pooled, a row for each proposal
        features = features[torch.cat(masked)]
    return features, [each[mask] for each, mask in zip(proposals, masked, strict=True)]
