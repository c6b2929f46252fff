"""R-CNN in the compressed domain, taught by a frozen pixel R-CNN (sections 3.3.2 and 5).

Shapes: N images, A anchors a cell, R sampled proposals, K classes, S x S mask pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.layers import cat
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.roi_heads import select_foreground_proposals
from detectron2.structures import Boxes, ImageList, Instances

from cdl_d2.codec import STRIDE
from cdl_d2.d2.compressed_rcnn import CompressedRCNN
from cdl_d2.d2.teacher import Teacher, build_teacher, check_heads, mask_logits
from cdl_d2.transfer import (
    DISTANCES,
    anchor_delta_transfer_loss,
    box_delta_transfer_loss,
    class_transfer_loss,
    covered_cells,
    feature_transfer_loss,
    mask_transfer_loss,
    objectness_transfer_loss,
)

MASK_CHOICES = ("all", "foreground")


@dataclass
class StudentOutputs:
    """What one training step of the student computed on the way to its task losses."""

    images: ImageList = None
    pyramid: dict[str, torch.Tensor] = field(default_factory=dict)
    anchors: tuple[list[torch.Tensor], list[torch.Tensor]] = None
    proposals: list[Instances] = None
    boxes: tuple[torch.Tensor, torch.Tensor] = None
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
        weight: float,
        weights: dict[str, float],
        distance: str,
        masks: str,
        ignore_padding: bool,
        **kwargs,
    ):
        """
        Args:
            teacher: makes the teacher.
            weight: lambda of formula (4).
            weights: of the terms: `features` (formula 3), `objectness`, `anchor_deltas`, `class`,
                `box_deltas` and `mask` (formula 2); one that is missing or 0 is left out.
            distance: `mse` or `l2norm`, see feature_transfer_loss.
            masks: compare masks on `all` sampled proposals or the `foreground` ones.
            ignore_padding: leave out cells and anchors outside of the images.
            kwargs: those of CompressedRCNN.
        """
        super().__init__(**kwargs)
        if masks not in MASK_CHOICES:
            raise ValueError(f"MODEL.TRANSFER.MASKS {masks!r} is not one of {MASK_CHOICES}")
        if distance not in DISTANCES:
            raise ValueError(f"MODEL.TRANSFER.DISTANCE {distance!r} is not one of {DISTANCES}")
        self._weights = {name: value for name, value in weights.items() if value}
        if self._captures_heads:
            check_heads(self)
        self._build_teacher = teacher
        self._weight = weight
        self._distance, self._masks, self._ignore_padding = distance, masks, ignore_padding

    @classmethod
    def from_config(cls, cfg):
        transfer = cfg.MODEL.TRANSFER
        weights = {}
        if transfer.FEATURES.ENABLED:
            weights["features"] = transfer.FEATURES.WEIGHT
        if transfer.OUTPUTS.ENABLED:
            weights |= {k.lower(): v for k, v in transfer.OUTPUTS.items() if k != "ENABLED"}
        return {
            **super().from_config(cfg),
            "teacher": lambda: build_teacher(cfg),
            "weight": transfer.WEIGHT,
            "weights": weights,
            "distance": transfer.DISTANCE,
            "masks": transfer.MASKS,
            "ignore_padding": transfer.IGNORE_PADDING,
        }

    @cached_property
    def _teacher(self) -> Teacher:
        return self._build_teacher()

    @property
    def _captures_heads(self) -> bool:
        return bool(self._weights.keys() - {"features"})

    def prepare_teacher(self) -> None:
        """Build the teacher now rather than at the first training step.

        Raises:
            FileNotFoundError, ValueError: see build_teacher.
        """
        _ = self._teacher

    def forward(self, batched_inputs: list[dict[str, Any]]):
        """As CompressedRCNN.forward; in training with `loss_transfer_...` among the losses."""
        if not self.training:
            return super().forward(batched_inputs)
        with self._capture() as student:
            losses = super().forward(batched_inputs)
        return losses | self._transfer_losses(batched_inputs, student)

    @contextmanager
    def _capture(self) -> Iterator[StudentOutputs]:
        """Record what the student's modules compute, so that no head runs twice."""
        seen = StudentOutputs()

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
        if self._captures_heads:
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

    def _transfer_losses(
        self, items: list[dict[str, Any]], student: StudentOutputs
    ) -> dict[str, torch.Tensor]:
        if not self._weight or not self._weights:
            return {}
        teacher, sizes = self._teacher.on(self.device), student.images.image_sizes
        scale = STRIDE if self.domain == "latent" else 1
        padded_size = tuple(side * scale for side in student.images.tensor.shape[-2:])
        pyramid = teacher.pyramid(items, self.input_format, sizes, padded_size)
        losses = {}
        if "features" in self._weights:
            losses["features"] = feature_transfer_loss(
                student.pyramid,
                pyramid,
                distance=self._distance,
                image_sizes=sizes if self._ignore_padding else None,
                strides=self._strides,
            )
        if self._weights.keys() & {"objectness", "anchor_deltas"}:
            losses |= self._anchor_losses(student, teacher, pyramid)
        if self._weights.keys() & {"class", "box_deltas"}:
            losses |= self._box_losses(student, teacher, pyramid)
        if "mask" in self._weights and self.roi_heads.mask_on:
            losses["mask"] = self._mask_loss(student, teacher, pyramid)
        return {
            f"loss_transfer_{name}": self._weight * self._weights[name] * loss
            for name, loss in losses.items()
            if name in self._weights
        }

    def _anchor_losses(
        self, student: StudentOutputs, teacher: Teacher, pyramid: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        ours, theirs = student.anchors, teacher.anchors(pyramid)
        valid = self._valid_anchors(student) if self._ignore_padding else None
        logits = _flat_logits(ours[0]), _flat_logits(theirs[0])
        deltas = _flat_deltas(ours[1]), _flat_deltas(theirs[1])
        return {
            "objectness": objectness_transfer_loss(*logits, valid),
            "anchor_deltas": anchor_delta_transfer_loss(*deltas, valid),
        }

    def _box_losses(
        self, student: StudentOutputs, teacher: Teacher, pyramid: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        class_logits, box_deltas = teacher.boxes(pyramid, _boxes_of(student.proposals))
        return {
            "class": class_transfer_loss(student.boxes[0], class_logits),
            "box_deltas": box_delta_transfer_loss(student.boxes[1], box_deltas),
        }

    def _mask_loss(
        self, student: StudentOutputs, teacher: Teacher, pyramid: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """The student's mask head has seen the foreground; it sees the rest here, if asked for."""
        foreground, selections = select_foreground_proposals(
            student.proposals, self.roi_heads.num_classes
        )
        ours = student.foreground_masks
        theirs = teacher.masks(pyramid, _boxes_of(foreground))
        if self._masks == "all":
            background = _boxes_of(
                [p[~chosen] for p, chosen in zip(student.proposals, selections, strict=True)]
            )
            ours = cat([ours, mask_logits(self.roi_heads, student.pyramid, background)])
            theirs = cat([theirs, teacher.masks(pyramid, background)])
        return mask_transfer_loss(ours, theirs)

    def _valid_anchors(self, student: StudentOutputs) -> torch.Tensor:
        """Which anchors lie on their image, N x all anchors."""
        sizes, levels = student.images.image_sizes, self.proposal_generator.in_features
        grids = zip(levels, student.anchors[0], strict=True)
        covered = [
            covered_cells(sizes, self._strides[level], logits.shape[2:], logits.device)
            .bool()
            .expand_as(logits)
            for level, logits in grids
        ]
        return _flat_logits(covered)

    @property
    def _strides(self) -> dict[str, int]:
        return {level: shape.stride for level, shape in self.backbone.output_shape().items()}


def _flat_logits(levels: list[torch.Tensor]) -> torch.Tensor:
    """N x A x H_i x W_i a level to N x all anchors."""
    return cat([level.flatten(1) for level in levels], dim=1)


def _flat_deltas(levels: list[torch.Tensor]) -> torch.Tensor:
    """N x 4A x H_i x W_i a level to N x all anchors x 4, in the order of _flat_logits."""
    return cat([d.unflatten(1, (-1, 4)).movedim(2, -1).flatten(1, 3) for d in levels], dim=1)


def _boxes_of(proposals: list[Instances]) -> list[Boxes]:
    return [p.proposal_boxes for p in proposals]
