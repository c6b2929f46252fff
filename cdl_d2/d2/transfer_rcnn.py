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
from detectron2.modeling.roi_heads import StandardROIHeads, select_foreground_proposals
from detectron2.structures import Boxes, ImageList, Instances

from cdl_d2.codec import STRIDE
from cdl_d2.d2.compressed_rcnn import CompressedRCNN
from cdl_d2.d2.teacher import Teacher, build_teacher, mask_logits
from cdl_d2.transfer import (
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

    The teacher is built at the first training step and is no part of the model's state: a
    checkpoint loads, and inference runs, without it.
    """

    @configurable
    def __init__(
        self,
        *,
        teacher: Callable[[], Teacher],
        weight: float,
        feature_weight: float,
        output_weights: dict[str, float],
        distance: str,
        masks: str,
        ignore_padding: bool,
        **kwargs,
    ):
        """
        Args:
            teacher: makes the teacher.
            weight: lambda of formula (4).
            feature_weight: weight of formula (3); 0 leaves it out.
            output_weights: weights of formula (2)'s terms, `objectness`, `anchor_deltas`,
                `class`, `box_deltas` and `mask`; a term that is missing or 0 is left out.
            distance: `mse` or `l2norm`, see feature_transfer_loss.
            masks: compare masks on `all` sampled proposals or the `foreground` ones.
            ignore_padding: leave out cells and anchors outside of the images.
            kwargs: those of CompressedRCNN.
        """
        super().__init__(**kwargs)
        if masks not in MASK_CHOICES:
            raise ValueError(f"MODEL.TRANSFER.MASKS {masks!r} is not one of {MASK_CHOICES}")
        if output_weights and not isinstance(self.roi_heads, StandardROIHeads):
            raise ValueError(
                f"output transfer captures StandardROIHeads, not {type(self.roi_heads).__name__}: "
                "set MODEL.TRANSFER.OUTPUTS.ENABLED False or MODEL.ROI_HEADS.NAME StandardROIHeads"
            )
        self._build_teacher = teacher
        self._weight = weight
        self._feature_weight = feature_weight
        self._output_weights = output_weights
        self._distance, self._masks, self._ignore_padding = distance, masks, ignore_padding

    @classmethod
    def from_config(cls, cfg):
        transfer = cfg.MODEL.TRANSFER
        outputs = {k.lower(): v for k, v in transfer.OUTPUTS.items() if k != "ENABLED"}
        return {
            **super().from_config(cfg),
            "teacher": lambda: build_teacher(cfg),
            "weight": transfer.WEIGHT,
            "feature_weight": transfer.FEATURES.WEIGHT if transfer.FEATURES.ENABLED else 0.0,
            "output_weights": outputs if transfer.OUTPUTS.ENABLED else {},
            "distance": transfer.DISTANCE,
            "masks": transfer.MASKS,
            "ignore_padding": transfer.IGNORE_PADDING,
        }

    @cached_property
    def _teacher(self) -> Teacher:
        return self._build_teacher()

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
        if self._output_weights:
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
        if not (self._feature_weight or any(self._output_weights.values())):
            return {}
        teacher = self._teacher.on(self.device)
        scale = STRIDE if self.domain == "latent" else 1
        height, width = student.images.tensor.shape[-2:]
        pyramid = teacher.pyramid(
            items,
            self.input_format,
            student.images.image_sizes,
            (height * scale, width * scale),
        )
        losses = {}
        if self._feature_weight:
            losses["features"] = self._feature_weight * feature_transfer_loss(
                student.pyramid,
                pyramid,
                distance=self._distance,
                image_sizes=student.images.image_sizes if self._ignore_padding else None,
                strides={k: v.stride for k, v in self.backbone.output_shape().items()},
            )
        for name, compare in self._output_terms(student, teacher, pyramid).items():
            if self._output_weights.get(name):
                losses[name] = self._output_weights[name] * compare()
        return {f"loss_transfer_{k}": self._weight * v for k, v in losses.items()}

    def _output_terms(
        self, student: StudentOutputs, teacher: Teacher, pyramid: dict[str, torch.Tensor]
    ) -> dict[str, Callable[[], torch.Tensor]]:
        """The terms of formula (2) by name, each computed only when called."""
        if not self._output_weights:
            return {}
        ours, theirs = student.anchors, teacher.anchors(pyramid)
        valid = self._valid_anchors(student) if self._ignore_padding else None
        sampled = [p.proposal_boxes for p in student.proposals]
        class_logits, box_deltas = teacher.boxes(pyramid, sampled)
        terms = {
            "objectness": lambda: objectness_transfer_loss(
                _flat_logits(ours[0]), _flat_logits(theirs[0]), valid
            ),
            "anchor_deltas": lambda: anchor_delta_transfer_loss(
                _flat_deltas(ours[1]), _flat_deltas(theirs[1]), valid
            ),
            "class": lambda: class_transfer_loss(student.boxes[0], class_logits),
            "box_deltas": lambda: box_delta_transfer_loss(student.boxes[1], box_deltas),
        }
        if student.foreground_masks is not None:
            terms["mask"] = lambda: self._mask_loss(student, teacher, pyramid)
        return terms

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
        strides = {k: v.stride for k, v in self.backbone.output_shape().items()}
        sizes, levels = student.images.image_sizes, self.proposal_generator.in_features
        return _flat_logits(
            [
                covered_cells(sizes, strides[level], logits.shape[2:], logits.device)
                .bool()
                .expand_as(logits)
                for level, logits in zip(levels, student.anchors[0], strict=True)
            ]
        )


def _flat_logits(levels: list[torch.Tensor]) -> torch.Tensor:
    """N x A x H_i x W_i a level to N x all anchors."""
    return cat([level.flatten(1) for level in levels], dim=1)


def _flat_deltas(levels: list[torch.Tensor]) -> torch.Tensor:
    """N x 4A x H_i x W_i a level to N x all anchors x 4, in the order of _flat_logits."""
    return cat([d.unflatten(1, (-1, 4)).movedim(2, -1).flatten(1, 3) for d in levels], dim=1)


def _boxes_of(proposals: list[Instances]) -> list[Boxes]:
    return [p.proposal_boxes for p in proposals]
