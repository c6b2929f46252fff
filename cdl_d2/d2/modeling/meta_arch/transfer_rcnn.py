"""R-CNN in the compressed domain, taught by a frozen pixel R-CNN (sections 3.3.2 and 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
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
    check_student,
    compared_terms,
    masks_at,
)
from cdl_d2.d2.modeling.mask_losses import has_mask
from cdl_d2.d2.modeling.meta_arch.compressed_rcnn import CompressedPanopticFPN, CompressedRCNN
from cdl_d2.d2.modeling.teacher import (
    Student,
    build_teacher,
    channel_order_of,
    normalizer,
    transfer_options,
)
from cdl_d2.transfer import (
    OUTPUT_TERMS,
    DetectorOutputs,
    DetectorTransfer,
    anchors_by_level,
    input_at,
    output,
    recorded_calls,
    recorded_modules,
    teachers_view,
)


@dataclass
class _Step:
    """What one training step of the student computed on the way to its task losses."""

    images: ImageList | None = None
    proposals: list[Instances] | None = None
    pyramid: dict[str, torch.Tensor] | None = None
    anchors: tuple[list[torch.Tensor], list[torch.Tensor]] | None = None
    anchor_labels: list[torch.Tensor] | None = None  # -1 for those that were not sampled
    boxes: tuple[torch.Tensor, torch.Tensor] | None = None
    foreground_masks: torch.Tensor | None = None


@META_ARCH_REGISTRY.register()
class TransferRCNN(Student, CompressedRCNN):
    """A CompressedRCNN whose training adds the transfer losses of formula (4).

    The teacher is no part of it, see Student: a checkpoint loads, and inference runs, without it.
    """

    @configurable
    def __init__(
        self,
        *,
        teacher: nn.Module | Callable[[], nn.Module],
        transfer: DetectorTransfer,
        task_weight: float = 1.0,
        **kwargs,
    ):
        """
        Args:
            teacher: a GeneralizedRCNN on pixels, or what makes one, see build_teacher; frozen, and
                no part of the student.
            transfer: the losses.
            task_weight: of the detector's own losses.
            kwargs: those of CompressedRCNN.

        Raises:
            CdlError: see check_student.
        """
        super().__init__(**kwargs)
        self._transfer, self._task_weight = transfer, task_weight
        check_student(self, transfer)
        self.set_teacher(teacher, enabled=bool(transfer.terms))

    @classmethod
    def from_config(cls, cfg):
        return {
            **super().from_config(cfg),
            "task_weight": cfg.MODEL.TRANSFER.TASK_WEIGHT,
            "teacher": partial(build_teacher, cfg),
            "transfer": cls.transfer_of(cfg),
        }

    @staticmethod
    def transfer_of(cfg: CfgNode) -> DetectorTransfer:
        """The losses that MODEL.TRANSFER says."""
        keys = cfg.MODEL.TRANSFER
        return DetectorTransfer(
            **transfer_options(cfg, {"features": 1.0}, OUTPUT_TERMS),
            ignore_padding=keys.IGNORE_PADDING,
            anchors=keys.ANCHORS,
            masks=keys.MASKS,
            heads=keys.HEADS,
        )

    def check_teacher(self, teacher: nn.Module) -> None:
        """As TeacherMixin: it must say the order of its channels, and see check_detectors."""
        channel_order_of(teacher)
        check_detectors(self, teacher, self._transfer)

    def forward(self, batched_inputs: list[dict[str, Any]]):
        """CompressedRCNN.forward, in training with `loss_transfer_<term>` for each term of formulas
        (2) and (3) that counts; items then need the original `image` too."""
        if not (self.training and self.uses_teacher):
            return super().forward(batched_inputs)
        with self._capture() as step:
            losses = super().forward(batched_inputs)
        losses = {name: self._task_weight * loss for name, loss in losses.items()}
        student, teacher = self._student_outputs(step), self._teacher_outputs(step, batched_inputs)
        strides = {level: shape.stride for level, shape in self.backbone.output_shape().items()}
        return losses | self._transfer(student, teacher, step.images.image_sizes, strides)

    @contextmanager
    def _capture(self) -> Iterator[_Step]:
        """Record the student's intermediate results, so that no head runs twice."""
        step, heads = _Step(), self.roi_heads
        modules = {
            "pyramid": (self.backbone, output),
            "images": (heads, input_at(0)),
            "proposals": (heads, lambda _, output: output[0]),
        }
        if self._transfer.needs_anchors:
            modules["anchors"] = self.proposal_generator.rpn_head, output
        if self._transfer.heads == "student":
            if self._transfer.needs_boxes:
                modules["boxes"] = heads.box_predictor, output
            if self._compares_masks:
                modules["foreground_masks"] = heads.mask_head.predictor, output

        def record_labels(result: tuple[list[torch.Tensor], list[torch.Tensor]]) -> None:
            step.anchor_labels = result[0]

        with ExitStack() as stack:
            stack.enter_context(recorded_modules(step, modules))
            if self._transfer.anchors == "sampled":
                rpn = self.proposal_generator
                stack.enter_context(recorded_calls(rpn, "label_and_sample_anchors", record_labels))
            yield step

    def _student_outputs(self, step: _Step) -> DetectorOutputs:
        if self._transfer.heads == "teacher":
            outputs = self._outputs_of(self.teacher, step.pyramid, step)
        else:
            outputs = self._own_outputs(step)
        if self._transfer.needs_anchors and step.anchor_labels is not None:
            logits, _ = anchor_outputs(self, step.anchors)
            sampled = torch.stack(step.anchor_labels) >= 0
            outputs.sampled_anchors = anchors_by_level(sampled, logits)
        return outputs

    def _own_outputs(self, step: _Step) -> DetectorOutputs:
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
        return "mask" in compared_terms(self, self._transfer)

    def _split(self, proposals: list[Instances]) -> tuple[list[Boxes], list[Boxes]]:
        """The boxes of each image that the mask head reads, in the foreground, and the others."""
        _, chosen = select_foreground_proposals(proposals, self.roi_heads.num_classes)
        chosen = [mask & has_mask(p) for p, mask in zip(proposals, chosen, strict=True)]
        foreground = [p[mask] for p, mask in zip(proposals, chosen, strict=True)]
        background = [p[~mask] for p, mask in zip(proposals, chosen, strict=True)]
        return [p.proposal_boxes for p in foreground], [p.proposal_boxes for p in background]


@META_ARCH_REGISTRY.register()
class TransferPanopticFPN(TransferRCNN, CompressedPanopticFPN):
    """A CompressedPanopticFPN that is taught as a TransferRCNN is; label maps are not compared."""


def _set_boxes(
    outputs: DetectorOutputs, network: nn.Module, found: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """What a box predictor gave; one with sigmoids has an output for the background that means
    nothing."""
    outputs.by_sigmoid = network.roi_heads.box_predictor.use_sigmoid_ce
    logits, outputs.box_deltas = found
    outputs.class_logits = logits[:, :-1] if outputs.by_sigmoid else logits
