"""CompressedMaskRCNN taught by a frozen pixel network (sections 3.3.2 and 5 of *Learning in
Compressed Domain via Knowledge Transfer*)."""

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
    recorded_calls,
    teachers_view,
)
from cdl_d2.tv.backbone import STRIDES
from cdl_d2.tv.compressed_mask_rcnn import CompressedMaskRCNN


@dataclass
class _Step:
    """What one training step of the student computed on the way to its task losses."""

    images: ImageList | None = None
    pyramid: dict[str, torch.Tensor] | None = None
    anchors: tuple[list[torch.Tensor], list[torch.Tensor]] | None = None
    sampled_anchors: torch.Tensor | None = None  # N x all anchors, booleans
    proposals: list[torch.Tensor] | None = None
    boxes: tuple[torch.Tensor, torch.Tensor] | None = None
    foreground: list[torch.Tensor] | None = None
    foreground_masks: torch.Tensor | None = None


class TransferMaskRCNN(TeacherMixin, nn.Module):
    """A student whose training adds the transfer losses of formula (4).

    Only `student` belongs to its state; for the teacher see TeacherMixin.

    Args:
        student: a CompressedMaskRCNN.
        teacher: one of domain `image`, with the same classes, anchors and pyramid channels.
        transfer: the losses; without `mask` for a student of boxes alone.
    """

    def __init__(
        self, student: CompressedMaskRCNN, teacher: CompressedMaskRCNN, transfer: DetectorTransfer
    ):
        super().__init__()
        self.student, self._transfer = student, transfer
        self.set_teacher(teacher, enabled=bool(transfer.terms))

    @property
    def device(self) -> torch.device:
        """Where the student is."""
        return self.student.device

    def forward(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """As CompressedMaskRCNN.forward in training, with `loss_transfer_...` among the losses.

        Raises:
            CdlError: if an item has no image, or one of another size than its latent shows.
        """
        if not self.uses_teacher:
            return self.student(items)
        with self._capture() as step:
            losses = self.student(items)
        sizes, teacher = step.images.image_sizes, self.teacher
        padded_size = tuple(step.images.tensors.shape[2:])  # of the pixel grid of the anchors
        with torch.no_grad():
            views = teachers_view(items, sizes, padded_size, teacher.normalize)
            theirs = self._outputs(teacher, teacher.backbone(views), step)
        crossed = self._transfer.heads == "teacher"
        network = teacher if crossed else self.student
        ours = self._outputs(network, step.pyramid, step, own=not crossed)
        if step.sampled_anchors is not None:
            logits = dict(zip(step.pyramid, step.anchors[0], strict=True))
            ours.sampled_anchors = anchors_by_level(step.sampled_anchors, logits)
        return losses | self._transfer(ours, theirs, sizes, STRIDES)

    @contextmanager
    def _capture(self) -> Iterator[_Step]:
        """Record what the student's modules compute, so that no head runs twice."""
        seen = _Step()

        def inputs(name: str, index: int):
            return lambda module, inputs, output: setattr(seen, name, inputs[index])

        def output(name: str):
            return lambda module, inputs, output: setattr(seen, name, output)

        rpn, heads = self.student.rpn, self.student.roi_heads
        hooks = [
            (self.student.backbone, output("pyramid")),
            (rpn, inputs("images", 0)),
            (rpn.head, output("anchors")),
            (heads.box_roi_pool, inputs("proposals", 1)),
            (heads.box_predictor, output("boxes")),
        ]
        if self.student.has_masks:
            hooks.append((heads.mask_roi_pool, inputs("foreground", 1)))
            hooks.append((heads.mask_predictor, output("foreground_masks")))

        def sample(labels: tuple[list[torch.Tensor], list[torch.Tensor]]) -> None:
            positive, negative = (torch.stack(each).bool() for each in labels)
            seen.sampled_anchors = positive | negative

        with ExitStack() as stack:
            for module, hook in hooks:
                stack.callback(module.register_forward_hook(hook).remove)
            if self._transfer.anchors == "sampled":
                stack.enter_context(recorded_calls(rpn, "fg_bg_sampler", sample))
            yield seen

    def _outputs(
        self,
        network: CompressedMaskRCNN,
        pyramid: dict[str, torch.Tensor],
        step: _Step,
        own: bool = False,
    ) -> DetectorOutputs:
        """What a network says at the student's proposals; `own` takes what the step recorded.

        Background columns of boxes and masks, which nothing ever trains, are left out.
        """
        transfer, sizes, outputs = self._transfer, step.images.image_sizes, DetectorOutputs(pyramid)
        if transfer.needs_anchors:
            logits, deltas = step.anchors if own else network.rpn.head(list(pyramid.values()))
            outputs.objectness = dict(zip(pyramid, logits, strict=True))
            outputs.anchor_deltas = dict(zip(pyramid, deltas, strict=True))
        if transfer.needs_boxes:
            boxes = step.boxes if own else network.boxes_at(pyramid, step.proposals, sizes)
            outputs.class_logits, outputs.box_deltas = boxes[0], boxes[1][:, 4:]
        if "mask" in transfer.terms:
            if transfer.masks == "all":  # the student's head has seen the foreground only
                masks = network.masks_at(pyramid, step.proposals, sizes)
            elif own:
                masks = step.foreground_masks
            else:
                masks = network.masks_at(pyramid, step.foreground, sizes)
            outputs.mask_logits = masks[:, 1:]
        return outputs
