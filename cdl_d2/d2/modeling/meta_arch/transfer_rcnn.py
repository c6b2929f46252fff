"""R-CNN in the compressed domain, taught by a frozen pixel R-CNN (sections 3.3.2 and 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.layers import cat
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.roi_heads import select_foreground_proposals
from detectron2.structures import Boxes, ImageList, Instances

from cdl_d2.codec import STRIDE
from cdl_d2.d2.modeling.meta_arch.compressed_rcnn import CompressedRCNN
from cdl_d2.d2.modeling.teacher import Teacher, build_teacher, check_heads, mask_logits
from cdl_d2.errors import CdlError
from cdl_d2.transfer import DetectorOutputs, DetectorTransfer

MASK_CHOICES = ("all", "foreground")


@dataclass
class _Step:
    """What one training step of the student computed on the way to its task losses."""

    images: ImageList | None = None
    proposals: list[Instances] | None = None
    pyramid: dict[str, torch.Tensor] | None = None
    anchors: tuple[list[torch.Tensor], list[torch.Tensor]] | None = None
    boxes: tuple[torch.Tensor, torch.Tensor] | None = None
    foreground_masks: torch.Tensor | None = None


@META_ARCH_REGISTRY.register()
class TransferRCNN(CompressedRCNN):
    """A CompressedRCNN whose training adds the transfer losses of formula (4).

    The teacher is built at the first training step, or by `prepare_teacher`, and is no part of the
    model's state: a checkpoint loads, and inference runs, without it.
    """

    @configurable
    def __init__(
        self,
        *,
        teacher: Callable[[], Teacher],
        transfer: DetectorTransfer,
        masks: str,
        **kwargs,
    ):
        """
        Args:
            teacher: makes the teacher.
            transfer: the losses.
            masks: compare masks on `all` sampled proposals or the `foreground` ones.
            kwargs: those of CompressedRCNN.
        """
        super().__init__(**kwargs)
        if masks not in MASK_CHOICES:
            raise CdlError(f"MODEL.TRANSFER.MASKS {masks!r} is not one of {MASK_CHOICES}")
        self._build_teacher = teacher
        self._transfer, self._masks = transfer, masks
        if transfer.needs_heads:
            check_heads(self)

    @classmethod
    def from_config(cls, cfg):
        keys = cfg.MODEL.TRANSFER
        weights = {}
        if keys.FEATURES.ENABLED:
            weights["features"] = keys.FEATURES.WEIGHT
        if keys.OUTPUTS.ENABLED:
            weights |= {k.lower(): v for k, v in keys.OUTPUTS.items() if k != "ENABLED"}
        return {
            **super().from_config(cfg),
            "teacher": lambda: build_teacher(cfg),
            "transfer": DetectorTransfer(keys.WEIGHT, weights, keys.DISTANCE, keys.IGNORE_PADDING),
            "masks": keys.MASKS,
        }

    @cached_property
    def _teacher(self) -> Teacher:
        return self._build_teacher()

    def prepare_teacher(self) -> None:
        """Build the teacher now rather than at the first training step.

        Raises:
            FileNotFoundError, ValueError: see build_teacher.
        """
        _ = self._teacher

    def forward(self, batched_inputs: list[dict[str, Any]]):
        """As CompressedRCNN.forward; in training with `loss_transfer_...` among the losses."""
        if not self.training or not self._transfer.terms:
            return super().forward(batched_inputs)
        with self._capture() as step:
            losses = super().forward(batched_inputs)
        student, teacher = self._student_outputs(step), self._teacher_outputs(step, batched_inputs)
        strides = {level: shape.stride for level, shape in self.backbone.output_shape().items()}
        return losses | self._transfer(student, teacher, step.images.image_sizes, strides)

    @contextmanager
    def _capture(self) -> Iterator[_Step]:
        """Record what the student's modules compute, so that no head runs twice."""
        seen = _Step()

        def record(name: str, *, of=lambda inputs, output: output):
            return lambda module, inputs, output: setattr(seen, name, of(inputs, output))

        heads = self.roi_heads
        hooks = {
            self.backbone: [record("pyramid")],
            heads: [
                record("images", of=lambda inputs, _: inputs[0]),
                record("proposals", of=lambda _, output: output[0]),
            ],
        }
        if self._transfer.needs_heads:
            hooks[self.proposal_generator.rpn_head] = [record("anchors")]
            hooks[heads.box_predictor] = [record("boxes")]
            if heads.mask_on:
                hooks[heads.mask_head.predictor] = [record("foreground_masks")]
        handles = [m.register_forward_hook(h) for m, each in hooks.items() for h in each]
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    def _student_outputs(self, step: _Step) -> DetectorOutputs:
        outputs = DetectorOutputs(step.pyramid)
        levels = self.proposal_generator.in_features
        if self._transfer.needs_anchors:
            outputs.objectness, outputs.anchor_deltas = _by_level(levels, step.anchors)
        if self._transfer.needs_boxes:
            outputs.class_logits, outputs.box_deltas = step.boxes
        if self._compares_masks:
            outputs.mask_logits = step.foreground_masks
            if self._masks == "all":  # the mask head has seen the foreground only
                background = self._split(step.proposals)[1]
                rest = mask_logits(self.roi_heads, step.pyramid, background)
                outputs.mask_logits = cat([step.foreground_masks, rest])
        return outputs

    def _teacher_outputs(self, step: _Step, items: list[dict[str, Any]]) -> DetectorOutputs:
        teacher, images = self._teacher.on(self.device), step.images
        scale = STRIDE if self.domain == "latent" else 1
        padded_size = tuple(side * scale for side in images.tensor.shape[-2:])
        pyramid = teacher.pyramid(items, self.input_format, images.image_sizes, padded_size)
        outputs = DetectorOutputs(pyramid)
        levels = self.proposal_generator.in_features
        if self._transfer.needs_anchors:
            outputs.objectness, outputs.anchor_deltas = _by_level(levels, teacher.anchors(pyramid))
        if self._transfer.needs_boxes:
            boxes = [p.proposal_boxes for p in step.proposals]
            outputs.class_logits, outputs.box_deltas = teacher.boxes(pyramid, boxes)
        if self._compares_masks:
            foreground, background = self._split(step.proposals)
            outputs.mask_logits = teacher.masks(pyramid, foreground)
            if self._masks == "all":
                rest = teacher.masks(pyramid, background)
                outputs.mask_logits = cat([outputs.mask_logits, rest])
        return outputs

    @property
    def _compares_masks(self) -> bool:
        return "mask" in self._transfer.terms and self.roi_heads.mask_on

    def _split(self, proposals: list[Instances]) -> tuple[list[Boxes], list[Boxes]]:
        """The foreground and the background boxes of each image."""
        foreground, chosen = select_foreground_proposals(proposals, self.roi_heads.num_classes)
        background = [p[~mask] for p, mask in zip(proposals, chosen, strict=True)]
        return [p.proposal_boxes for p in foreground], [p.proposal_boxes for p in background]


def _by_level(
    levels: list[str], outputs: tuple[list[torch.Tensor], list[torch.Tensor]]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The RPN's lists of logits and deltas, each by the name of the level."""
    logits, deltas = (dict(zip(levels, each, strict=True)) for each in outputs)
    return logits, deltas
