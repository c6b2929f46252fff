"""torchvision's Mask R-CNN and Faster R-CNN on latents, reconstructions or original images.

Shapes: N images, G ground-truth objects, D detections, R proposals, K classes.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import maskrcnn_loss
from torchvision.ops.poolers import initLevelMapper

from cdl_d2.errors import CdlError
from cdl_d2.nn.bridge.input_adapter import announce_images, set_margin
from cdl_d2.nn.bridge.latent_translation import build_translation
from cdl_d2.nn.input.coded_input import CodedInput
from cdl_d2.nn.input.sample import get_output_size, rate_fields
from cdl_d2.transfer import recorded_calls
from cdl_d2.tv.backbone import STRIDES

DIVISIBILITY = 32  # pixels: conv5 of a latent ResNet has twice the latent's stride of 16


class CompressedMaskRCNN(FasterRCNN):
    """torchvision's R-CNN on a backbone for any input domain; boxes and masks are in pixels.

    Images are not resized inside: samples are resized before they are encoded.

    Args:
        backbone: network for the input domain.
        coded_input: domain, codec and channel order, which must be RGB.
        mask_modules: `mask_roi_pool`, `mask_head` and `mask_predictor` of torchvision's MaskRCNN;
            None for Faster R-CNN.
        kwargs: arguments of torchvision's FasterRCNN.
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
        if coded_input.margin:
            set_margin(self, coded_input.margin)
        self.translation = build_translation(self, coded_input) if coded_input.others else None

    @property
    def has_masks(self) -> bool:
        """True if the detector predicts masks."""
        return self.roi_heads.has_mask()

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    def forward(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor] | list[dict]:
        """Return losses in training, detections otherwise.

        Args:
            samples: each with `image` (3 x H x W, uint8, RGB) or an encoded input. In training
                with `target`: `boxes` (G x 4, in pixels of the sample), `labels` (G, from 1) and,
                for Mask R-CNN, `masks` (G x H x W, uint8) and, where an object has none,
                `has_mask` (G booleans). In evaluation, optionally with `height` and `width` of the
                original image, to which boxes and masks are scaled.

        Returns:
            torchvision's losses; or one dict per sample with `boxes` (D x 4), `labels`, `scores`,
            for Mask R-CNN `masks` (D x 1 x height x width, probabilities), and for a coded image
            `bits` and `image_size`.

        Raises:
            CdlError: if a sample cannot be encoded, or has no target in training.
        """
        samples, inputs, batch = self.prepare(samples)
        targets = [self._target(sample) for sample in samples] if self.training else None
        pyramid = self.backbone(inputs)
        proposals, rpn_losses = self.rpn(batch, pyramid, targets)
        if self.training and self.has_masks and any("has_mask" in target for target in targets):
            losses = self._losses_of_masked(pyramid, proposals, batch.image_sizes, targets)
            return losses | rpn_losses
        detections, losses = self.roi_heads(pyramid, proposals, batch.image_sizes, targets)
        if self.training:
            return losses | rpn_losses
        sizes, rates = [], []
        for sample, image_size in zip(samples, batch.image_sizes, strict=True):
            sizes.append(tuple(map(int, get_output_size(sample, image_size))))
            rates.append(rate_fields(sample))
        detections = self.transform.postprocess(detections, batch.image_sizes, sizes)
        return list(map(operator.or_, detections, rates))

    def encode(self, sample: dict[str, Any], with_bits: bool = False) -> dict[str, Any]:
        """Add the backbone's input to a sample.

        Raises:
            CdlError: if the sample has neither an image nor an input that fits the codec.
        """
        sample = self.coded_input.encode(sample, self.device, with_bits, self.training)
        return sample if self.translation is None else self.translation.translate_sample(sample)

    def prepare(
        self, samples: list[dict[str, Any]]
    ) -> tuple[list[dict[str, Any]], torch.Tensor, ImageList]:
        """Encode samples, and stack the backbone's inputs.

        Returns:
            the samples with their inputs; the inputs in one tensor, latents, N x M x h x w, or
            normalized pixels, N x 3 x H x W, zero-padded by CodedInput.batch; and their sizes
            in pixels, with an empty tensor of the padded size, from which anchors are laid out.
        """
        device, coded_input = self.device, self.coded_input
        samples = [self.encode(sample, with_bits=not self.training) for sample in samples]
        inputs, sizes = coded_input.batch(samples, device, DIVISIBILITY, self.normalize)
        if coded_input.margin:
            announce_images(self, [sample["latent"] for sample in samples], sizes)
        stride, margin, (height, width) = coded_input.stride, coded_input.margin, inputs.shape[2:]
        padded_size = stride * (height - margin), stride * (width - margin)
        grid = inputs.new_zeros(()).expand(1, 1, *padded_size)
        return samples, inputs, ImageList(grid, sizes)

    def normalize(self, image: torch.Tensor) -> torch.Tensor:
        """Return the input of an RGB backbone for an image, 3 x H x W in 0..255."""
        return self.transform.normalize(image.to(self.device).float() / 255)

    def boxes_at(
        self,
        pyramid: dict[str, torch.Tensor],
        proposals: list[torch.Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return class logits, R x (K + 1), and box deltas, R x 4(K + 1); background is first."""
        heads = self.roi_heads
        pooled = heads.box_roi_pool(pyramid, proposals, image_sizes)
        return heads.box_predictor(heads.box_head(pooled))

    def masks_at(
        self,
        pyramid: dict[str, torch.Tensor],
        proposals: list[torch.Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> torch.Tensor:
        """Return mask logits at proposals, R x (K + 1) x S x S; background is first."""
        heads = self.roi_heads
        pooled = heads.mask_roi_pool(pyramid, proposals, image_sizes)
        return heads.mask_predictor(heads.mask_head(pooled))

    def _losses_of_masked(
        self,
        pyramid: dict[str, torch.Tensor],
        proposals: list[torch.Tensor],
        sizes: list[tuple[int, int]],
        targets: list[dict[str, torch.Tensor]],
    ) -> dict[str, torch.Tensor]:
        """Return the losses of the RoI heads; objects without a mask train boxes only."""
        heads, samples = self.roi_heads, []
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
        logits = self.masks_at(pyramid, boxes, sizes)
        masks, classes = ([target[name] for target in targets] for name in ("masks", "labels"))
        return losses | {"loss_mask": maskrcnn_loss(logits, boxes, masks, classes, objects)}

    def _target(self, sample: dict[str, Any]) -> dict[str, torch.Tensor]:
        if "target" not in sample:
            raise CdlError("a training sample has no 'target': boxes, labels and masks are needed")
        return {name: value.to(self.device) for name, value in sample["target"].items()}


def read_detections(output: dict[str, Any]) -> dict[str, Any]:
    """Return a detector's output for an image on the CPU, labels from 0, masks D x H x W booleans.

    Other entries stay as they are.
    """
    fields = {name: output[name].cpu() for name in ("boxes", "labels", "scores")}
    fields["labels"] = fields["labels"] - 1  # a copy, without the background
    if "masks" in output:
        fields["masks"] = output["masks"][:, 0].cpu() > 0.5
    return output | fields
