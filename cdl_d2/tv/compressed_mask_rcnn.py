"""torchvision's Mask R-CNN whose input is a codec's latent, a decoded image, or the original; or
Faster R-CNN, which is the same without mask heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.poolers import initLevelMapper

from cdl_d2.errors import CdlError
from cdl_d2.nn.bridge.latent_translation import translation_for
from cdl_d2.nn.input.batch_item import output_size, reported
from cdl_d2.nn.input.coded_input import CodedInput
from cdl_d2.tv.backbone import STRIDES
from cdl_d2.tv.mask_losses import losses_of_heads

DIVISIBILITY = 32  # pixels: conv5 of a latent ResNet halves cells of 16 pixels


class CompressedMaskRCNN(FasterRCNN):
    """torchvision's heads on a backbone of any domain; boxes and masks are in pixels.

    Nothing is resized inside: whoever makes the items does that, before encoding.

    Args:
        backbone: fits the domain.
        coded_input: what is looked at; the order of its channels is RGB.
        mask_modules: `mask_roi_pool`, `mask_head` and `mask_predictor`, those of torchvision's
            MaskRCNN; none for a detector of boxes alone.
        kwargs: those of torchvision's FasterRCNN.
    """

    def __init__(
        self,
        backbone: nn.Module,
        coded_input: CodedInput,
        mask_modules: Mapping[str, nn.Module] | None = None,
        **kwargs,
    ):
        super().__init__(backbone, **kwargs)
        self.coded_input = coded_input
        heads = self.roi_heads
        for name, module in (mask_modules or {}).items():
            setattr(heads, name, module)
        for pool in filter(None, (heads.box_roi_pool, heads.mask_roi_pool)):
            # torchvision guesses these from the first batch, wrongly where padding is large
            pool.scales = [1 / STRIDES[level] for level in pool.featmap_names]
            finest = min(STRIDES[level] for level in pool.featmap_names)
            pool.map_levels = initLevelMapper(finest.bit_length() - 1, 5)
        coded_input.stamp(self)
        self.translation = translation_for(self, coded_input)

    @property
    def has_masks(self) -> bool:
        """Whether it finds masks, too."""
        return self.roi_heads.has_mask()

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def forward(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor] | list[dict]:
        """Losses in training, detections otherwise.

        Args:
            items: each with `image` (3 x H x W, uint8, RGB), or what CodedInput.encode adds; for
                training with `target`: `boxes` (G x 4, pixels of the item), `labels` (G, from 1)
                and, for mask heads, `masks` (G x H x W, uint8) and, where an object has none,
                `has_mask` (G booleans); else, if wanted, `height` and
                `width` of the original image, to which boxes and masks are scaled.

        Returns:
            torchvision's losses; or a dict an item with `boxes` (D x 4), `labels`, `scores`,
            perhaps `masks` (D x 1 x height x width, probabilities), and of a coded image `bits` and
            `image_size`.

        Raises:
            CdlError: see CodedInput.encode; or in training for an item without target.
        """
        items = [self.encode(item, with_bits=not self.training) for item in items]
        batch = self.batch(items)
        targets = [self._target(item) for item in items] if self.training else None
        pyramid = self.backbone(batch.tensors)
        proposals, rpn_losses = self.rpn(self._on_pixel_grid(batch), pyramid, targets)
        if self.training and self.has_masks and any("has_mask" in target for target in targets):
            losses = losses_of_heads(self.roi_heads, pyramid, proposals, batch.image_sizes, targets)
            return losses | rpn_losses
        found, losses = self.roi_heads(pyramid, proposals, batch.image_sizes, targets)
        if self.training:
            return losses | rpn_losses
        sizes = [tuple(map(int, output_size(item))) for item in items]
        found = self.transform.postprocess(found, batch.image_sizes, sizes)
        return [result | reported(item) for result, item in zip(found, items, strict=True)]

    def encode(self, item: dict[str, Any], with_bits: bool = False) -> dict[str, Any]:
        """An item with what the backbone reads of it; raises as CodedInput.encode."""
        item = self.coded_input.encode(item, self.device, with_bits, self.training)
        return item if self.translation is None else self.translation.of_item(item)

    def batch(self, items: list[dict[str, Any]]) -> ImageList:
        """What the backbone reads, padded with zeros on the right and below to whole strides.

        Returns:
            latents, N x M x h x w, or normalized pixels, N x 3 x H x W; sizes always in pixels.
        """
        return ImageList(*self.coded_input.batch(items, self.device, DIVISIBILITY, self.normalize))

    def normalize(self, image: torch.Tensor) -> torch.Tensor:
        """What a pixel backbone reads of an image, 3 x H x W in 0..255."""
        return self.transform.normalize(image.to(self.device).float() / 255)

    def boxes_at(
        self,
        pyramid: dict[str, torch.Tensor],
        proposals: list[torch.Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Class logits R x (K + 1), background first, and box deltas R x 4(K + 1) at proposals."""
        heads = self.roi_heads
        pooled = heads.box_roi_pool(pyramid, proposals, image_sizes)
        return heads.box_predictor(heads.box_head(pooled))

    def masks_at(
        self,
        pyramid: dict[str, torch.Tensor],
        proposals: list[torch.Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> torch.Tensor:
        """Mask logits R x (K + 1) x S x S, background first, at proposals."""
        heads = self.roi_heads
        pooled = heads.mask_roi_pool(pyramid, proposals, image_sizes)
        return heads.mask_predictor(heads.mask_head(pooled))

    def _on_pixel_grid(self, batch: ImageList) -> ImageList:
        """The same list with a tensor of the pixels' size, from which anchors are laid out."""
        size = self.coded_input.padded_size(batch.tensors)
        return ImageList(batch.tensors.new_zeros(()).expand(1, 1, *size), batch.image_sizes)

    def _target(self, item: dict[str, Any]) -> dict[str, torch.Tensor]:
        if "target" not in item:
            raise CdlError("a batch item without 'target' cannot be trained on")
        return {name: value.to(self.device) for name, value in item["target"].items()}
