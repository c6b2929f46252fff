"""R-CNN in the compressed domain, taught by a frozen pixel R-CNN (sections 3.3.2 and 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.layers import cat
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.roi_heads import select_foreground_proposals
from detectron2.structures import Boxes, ImageList, Instances
from torch import nn

from cdl_d2.d2.modeling.detector_outputs import (
    anchor_outputs,
    anchors_at,
    boxes_at,
    check_detectors,
    check_heads,
    masks_at,
)
from cdl_d2.d2.modeling.meta_arch.compressed_rcnn import CompressedRCNN
from cdl_d2.d2.modeling.teacher import build_teacher, normalizer, transfer_options
from cdl_d2.transfer import (
    OUTPUT_TERMS,
    DetectorOutputs,
    DetectorTransfer,
    Taught,
    teachers_view,
)


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
class TransferRCNN(Taught, CompressedRCNN):
    """A CompressedRCNN whose training adds the transfer losses of formula (4).

    The teacher is no part of it, see Taught: a checkpoint loads, and inference runs, without it.
    """

    @configurable
    def __init__(
        self,
        *,
        teacher: Callable[[], nn.Module],
        transfer: DetectorTransfer,
        task_weight: float = 1.0,
        **kwargs,
    ):
        """
        Args:
            teacher: makes a GeneralizedRCNN on pixels, see build_teacher.
            transfer: the losses.
            task_weight: of the detector's own losses.
            kwargs: those of CompressedRCNN.
        """
        super().__init__(**kwargs)
        self._transfer, self._task_weight = transfer, task_weight
        if transfer.needs_heads:
            check_heads(self)

        def build_checked() -> nn.Module:
            network = teacher()
            check_detectors(self, network, transfer.needs_heads, transfer.heads == "teacher")
            return network

        self.learn_from(build_checked, wanted=bool(transfer.terms))

    @classmethod
    def from_config(cls, cfg):
        keys, options = cfg.MODEL.TRANSFER, transfer_options(cfg, {"features": 1.0}, OUTPUT_TERMS)
        return {
            **super().from_config(cfg),
            "task_weight": keys.TASK_WEIGHT,
            "teacher": lambda: build_teacher(cfg),
            "transfer": DetectorTransfer(
                **options,
                ignore_padding=keys.IGNORE_PADDING,
                masks=keys.MASKS,
                heads=keys.HEADS,
            ),
        }

    def forward(self, batched_inputs: list[dict[str, Any]]):
        """CompressedRCNN.forward, in training with `loss_transfer_<term>` for each term of formulas
        (2) and (3) that counts; items then need the original `image` too."""
        if not (self.training and self.is_taught):
            return super().forward(batched_inputs)
        with self._capture() as step:
            losses = super().forward(batched_inputs)
        losses = {name: self._task_weight * loss for name, loss in losses.items()}
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
        if self._transfer.heads == "teacher":
            return self._outputs_of(self.teacher, step.pyramid, step)
        outputs = DetectorOutputs(step.pyramid)
        if self._transfer.needs_anchors:
            outputs.objectness, outputs.anchor_deltas = anchor_outputs(self, step.anchors)
        if self._transfer.needs_boxes:
            _set_boxes(outputs, self, step.boxes)
        if self._compares_masks:
            outputs.mask_logits = step.foreground_masks
            if self._transfer.masks == "all":  # the mask head has seen the foreground only
                rest = masks_at(self, step.pyramid, self._split(step.proposals)[1])
                outputs.mask_logits = cat([step.foreground_masks, rest])
        return outputs

    @torch.no_grad()
    def _teacher_outputs(self, step: _Step, items: list[dict[str, Any]]) -> DetectorOutputs:
        teacher, sizes = self.teacher, step.images.image_sizes
        padded_size = self.coded_input.padded_size(step.images.tensor)
        normalize = normalizer(teacher, self.coded_input.channel_order)
        views = teachers_view(items, sizes, padded_size, normalize)
        return self._outputs_of(teacher, teacher.backbone(views), step)

    def _outputs_of(
        self, network: nn.Module, pyramid: dict[str, torch.Tensor], step: _Step
    ) -> DetectorOutputs:
        """What the heads of a network make of a pyramid, at the student's proposals."""
        outputs = DetectorOutputs(pyramid)
        if self._transfer.needs_anchors:
            outputs.objectness, outputs.anchor_deltas = anchors_at(network, pyramid)
        if self._transfer.needs_boxes:
            boxes = [p.proposal_boxes for p in step.proposals]
            _set_boxes(outputs, network, boxes_at(network, pyramid, boxes))
        if self._compares_masks:
            foreground, background = self._split(step.proposals)
            outputs.mask_logits = masks_at(network, pyramid, foreground)
            if self._transfer.masks == "all":
                rest = masks_at(network, pyramid, background)
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


def _set_boxes(
    outputs: DetectorOutputs, network: nn.Module, found: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """What a box predictor gave; one with sigmoids has an output for the background that means
    nothing."""
    outputs.by_sigmoid = network.roi_heads.box_predictor.use_sigmoid_ce
    logits, outputs.box_deltas = found
    outputs.class_logits = logits[:, :-1] if outputs.by_sigmoid else logits
