"""Losses of torchvision's heads if some objects have no mask."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models.detection.roi_heads import maskrcnn_loss

from cdl_d2.transfer import recorded_calls


def head_losses(
    heads: nn.Module,
    pyramid: dict[str, torch.Tensor],
    proposals: list[torch.Tensor],
    sizes: list[tuple[int, int]],
    targets: list[dict[str, torch.Tensor]],
) -> dict[str, torch.Tensor]:
    """Return the losses of torchvision's RoIHeads; objects without a mask train boxes only.

    Args:
        heads: torchvision's RoIHeads with mask modules.
        pyramid: features, by level.
        proposals: boxes, R x 4 per image.
        sizes: (H, W) of each image in pixels.
        targets: one per image, with `masks`, and `has_mask` (G booleans) if an object has none.
    """
    samples: list[tuple[list[torch.Tensor], ...]] = []
    pool, heads.mask_roi_pool = heads.mask_roi_pool, None  # no masks in this call
    try:
        with recorded_calls(heads, "select_training_samples", samples.append):
            _, losses = heads(pyramid, proposals, sizes, targets)
    finally:
        heads.mask_roi_pool = pool
    boxes, objects = [], []
    for target, sampled, matched, labels in zip(targets, *samples[0][:3], strict=True):
        foreground = labels > 0
        if "has_mask" in target:
            foreground &= target["has_mask"][matched]
        boxes.append(sampled[foreground])
        objects.append(matched[foreground])
    logits = heads.mask_predictor(heads.mask_head(pool(pyramid, boxes, sizes)))
    masks, classes = ([target[name] for target in targets] for name in ("masks", "labels"))
    return losses | {"loss_mask": maskrcnn_loss(logits, boxes, masks, classes, objects)}
