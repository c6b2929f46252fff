"""CompressedMaskRCNN distilled from a frozen RGB detector.

Sections 3.3.2 and 5 of *Learning in Compressed Domain via Knowledge Transfer*.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torchvision.models.detection.image_list import ImageList

from cdl_d2.transfer import (
    DetectorOutputs,
    DetectorTransfer,
    TeacherMixin,
    anchors_by_level,
    batch_for_teacher,
    input_at,
    output,
    recorded_calls,
    recorded_modules,
)
from cdl_d2.tv.backbone import STRIDES
from cdl_d2.tv.compressed_mask_rcnn import CompressedMaskRCNN


@dataclass
class _Step:
    """Intermediate results of the student in one training step."""

    images: ImageList | None = None
    pyramid: dict[str, torch.Tensor] | None = None
    anchors: tuple[list[torch.Tensor], list[torch.Tensor]] | None = None
    sampled_anchors: torch.Tensor | None = None  # N x anchors of all levels, booleans
    proposals: list[torch.Tensor] | None = None
    boxes: tuple[torch.Tensor, torch.Tensor] | None = None
    foreground: list[torch.Tensor] | None = None
    foreground_masks: torch.Tensor | None = None


class TransferMaskRCNN(TeacherMixin, nn.Module):
    """A student whose training adds the transfer losses of formula (4).

    Only `student` is part of its state; the teacher is not.

    Args:
        student: detector of any domain.
        teacher: detector of domain `image` with the same classes, anchors and pyramid channels.
        transfer: the losses; without `mask` for a Faster R-CNN.
    """

    def __init__(
        self, student: CompressedMaskRCNN, teacher: CompressedMaskRCNN, transfer: DetectorTransfer
    ):
        super().__init__()
        self.student, self._transfer = student, transfer
        self.set_teacher(teacher, enabled=bool(transfer.terms))

    @property
    def device(self) -> torch.device:
        """Device of the student."""
        return self.student.device

    def forward(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the student's losses, and `loss_transfer_<term>` for each compared term.

        Raises:
            CdlError: if a sample has no image, or its latent is of another size than the image.
        """
        if not self.uses_teacher:
            return self.student(samples)
        with self._capture() as step:
            losses = self.student(samples)
        sizes, teacher = step.images.image_sizes, self.teacher
        padded_size = tuple(step.images.tensors.shape[2:])  # of the pixel grid of the anchors
        with torch.no_grad():
            images = batch_for_teacher(samples, sizes, padded_size, teacher.normalize)
            teacher_outputs = self._outputs(teacher, teacher.backbone(images), step)
        crossed = self._transfer.heads == "teacher"
        network = teacher if crossed else self.student
        student_outputs = self._outputs(network, step.pyramid, step, recorded=not crossed)
        if step.sampled_anchors is not None:
            logits = dict(zip(step.pyramid, step.anchors[0], strict=True))
            student_outputs.sampled_anchors = anchors_by_level(step.sampled_anchors, logits)
        return losses | self._transfer(student_outputs, teacher_outputs, sizes, STRIDES)

    @contextmanager
    def _capture(self) -> Iterator[_Step]:
        """Record the student's intermediate results, so that no head runs twice."""
        step, rpn, heads = _Step(), self.student.rpn, self.student.roi_heads
        modules = {
            "pyramid": (self.student.backbone, output),
            "images": (rpn, input_at(0)),
            "anchors": (rpn.head, output),
            "proposals": (heads.box_roi_pool, input_at(1)),
            "boxes": (heads.box_predictor, output),
        }
        if self.student.has_masks:
            modules["foreground"] = heads.mask_roi_pool, input_at(1)
            modules["foreground_masks"] = heads.mask_predictor, output

        def record_sampling(labels: tuple[list[torch.Tensor], list[torch.Tensor]]) -> None:
            positive, negative = (torch.stack(masks).bool() for masks in labels)
            step.sampled_anchors = positive | negative

        with ExitStack() as stack:
            stack.enter_context(recorded_modules(step, modules))
            if self._transfer.anchors == "sampled":
                stack.enter_context(recorded_calls(rpn, "fg_bg_sampler", record_sampling))
            yield step

    def _outputs(
        self,
        network: CompressedMaskRCNN,
        pyramid: dict[str, torch.Tensor],
        step: _Step,
        recorded: bool = False,
    ) -> DetectorOutputs:
        """Return a network's outputs at the student's proposals, recorded ones where possible.

        Background columns of boxes and masks, which are never trained, are left out.
        """
        transfer, sizes, outputs = self._transfer, step.images.image_sizes, DetectorOutputs(pyramid)
        if transfer.needs_anchors:
            logits, deltas = step.anchors if recorded else network.rpn.head(list(pyramid.values()))
            outputs.objectness = dict(zip(pyramid, logits, strict=True))
            outputs.anchor_deltas = dict(zip(pyramid, deltas, strict=True))
        if transfer.needs_boxes:
            boxes = step.boxes if recorded else network.boxes_at(pyramid, step.proposals, sizes)
            outputs.class_logits, outputs.box_deltas = boxes[0], boxes[1][:, 4:]
        if "mask" in transfer.terms:
            if transfer.masks == "all":  # the student's head ran on the foreground only
                masks = network.masks_at(pyramid, step.proposals, sizes)
            elif recorded:
                masks = step.foreground_masks
            else:
                masks = network.masks_at(pyramid, step.foreground, sizes)
            outputs.mask_logits = masks[:, 1:]
        return outputs
