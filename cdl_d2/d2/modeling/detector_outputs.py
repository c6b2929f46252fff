"""Outputs of Detectron2 R-CNNs, student and teacher, at the student's proposals.

Shapes: N images, A anchors per position, H_i x W_i positions of level i, R boxes, K classes, S x S
mask pixels.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import torch
from detectron2.layers import cat
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.roi_heads import select_foreground_proposals
from detectron2.structures import Boxes, ImageList, Instances

from cdl_d2.d2.modeling.mask_losses import HAS_MASK
from cdl_d2.transfer import (
    DetectorOutputs,
    DetectorTransfer,
    anchors_by_level,
    input_at,
    output,
    output_at,
    recorded_calls,
    recorded_modules,
)

Levels = dict[str, torch.Tensor]


@dataclass
class StudentStep:
    """One training step of a student: what it computed, so that no head runs twice.

    Attributes:
        student: an R-CNN that is distilled.
        transfer: its losses.
        images: the student's batch.
        proposals: sampled proposals of each image.
        pyramid: level name to N x C x H_i x W_i.
        anchors: objectness logits and deltas of each level.
        anchor_labels: of each image's anchors; -1 if not sampled.
        boxes: class logits and box deltas.
        masks: mask logits of the foreground proposals.
    """

    student: GeneralizedRCNN
    transfer: DetectorTransfer
    images: ImageList | None = None
    proposals: list[Instances] | None = None
    pyramid: Levels | None = None
    anchors: tuple[list[torch.Tensor], list[torch.Tensor]] | None = None
    anchor_labels: list[torch.Tensor] | None = None
    boxes: tuple[torch.Tensor, torch.Tensor] | None = None
    masks: torch.Tensor | None = None

    def __post_init__(self) -> None:
        has_masks = getattr(self.student.roi_heads, "mask_on", False)
        self._compares_masks = has_masks and "mask" in self.transfer.terms

    def record(self) -> ExitStack:
        """Start to record outputs of the student's modules; the returned context ends that."""
        heads, rpn = self.student.roi_heads, self.student.proposal_generator
        modules = {
            "pyramid": (self.student.backbone, output),
            "images": (heads, input_at(0)),
            "proposals": (heads, output_at(0)),
        }
        if self.transfer.needs_anchors:
            modules["anchors"] = rpn.rpn_head, output
        if self.transfer.heads == "student":
            if self.transfer.needs_boxes:
                modules["boxes"] = heads.box_predictor, output
            if self._compares_masks:
                modules["masks"] = heads.mask_head.predictor, output

        def record_labels(result: tuple[list[torch.Tensor], list[torch.Tensor]]) -> None:
            self.anchor_labels = result[0]

        stack = recorded_modules(self, modules)
        if self.transfer.anchors == "sampled":
            stack.enter_context(recorded_calls(rpn, "label_and_sample_anchors", record_labels))
        return stack

    def student_outputs(self) -> DetectorOutputs:
        """Return what the student's own heads computed, and masks of the background if needed."""
        outputs = DetectorOutputs(self.pyramid)
        if self.transfer.needs_anchors:
            outputs.objectness, outputs.anchor_deltas = _by_level(self.student, self.anchors)
        if self.transfer.needs_boxes:
            _set_boxes(outputs, self.student, self.boxes)
        if self._compares_masks:
            outputs.mask_logits = self.masks
            if self.transfer.masks == "all":
                _, background = self._split_proposals()
                masks = _compute_masks(self.student, self.pyramid, background)
                outputs.mask_logits = cat([self.masks, masks])
        return self._with_sampled_anchors(outputs)

    def outputs_of(self, network: GeneralizedRCNN, pyramid: Levels) -> DetectorOutputs:
        """Apply the heads of a network to a pyramid, at the student's proposals."""
        outputs, rpn, heads = (
            DetectorOutputs(pyramid),
            network.proposal_generator,
            network.roi_heads,
        )
        if self.transfer.needs_anchors:
            anchors = rpn.rpn_head([pyramid[level] for level in rpn.in_features])
            outputs.objectness, outputs.anchor_deltas = _by_level(network, anchors)
        if self.transfer.needs_boxes:
            boxes = [proposals.proposal_boxes for proposals in self.proposals]
            pooled = heads.box_pooler([pyramid[level] for level in heads.box_in_features], boxes)
            _set_boxes(outputs, network, heads.box_predictor(heads.box_head(pooled)))
        if self._compares_masks:
            foreground, background = self._split_proposals()
            outputs.mask_logits = _compute_masks(network, pyramid, foreground)
            if self.transfer.masks == "all":
                masks = _compute_masks(network, pyramid, background)
                outputs.mask_logits = cat([outputs.mask_logits, masks])
        return self._with_sampled_anchors(outputs)

    def _with_sampled_anchors(self, outputs: DetectorOutputs) -> DetectorOutputs:
        if self.transfer.needs_anchors and self.anchor_labels is not None:
            logits, _ = _by_level(self.student, self.anchors)
            sampled = torch.stack(self.anchor_labels) >= 0
            outputs.sampled_anchors = anchors_by_level(sampled, logits)
        return outputs

    def _split_proposals(self) -> tuple[list[Boxes], list[Boxes]]:
        """Return each image's foreground boxes, which the mask head reads, and the other boxes."""
        classes = self.student.roi_heads.num_classes
        _, masks = select_foreground_proposals(self.proposals, classes)
        foreground, background = [], []
        for proposals, mask in zip(self.proposals, masks, strict=True):
            if proposals.has(HAS_MASK):
                mask = mask & proposals.get(HAS_MASK)
            foreground.append(proposals[mask].proposal_boxes)
            background.append(proposals[~mask].proposal_boxes)
        return foreground, background


def _by_level(
    network: GeneralizedRCNN, anchors: tuple[list[torch.Tensor], list[torch.Tensor]]
) -> tuple[Levels, Levels]:
    """Return objectness, N x A x H_i x W_i, and deltas, N x 4A x H_i x W_i, by level name."""
    levels = network.proposal_generator.in_features
    logits, deltas = anchors
    return dict(zip(levels, logits, strict=True)), dict(zip(levels, deltas, strict=True))


def _set_boxes(
    outputs: DetectorOutputs, network: GeneralizedRCNN, boxes: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """Set class logits, R x (K + 1), and box deltas, R x 4K.

    A predictor with sigmoids has an unused output for the background, which is left out.
    """
    outputs.by_sigmoid = network.roi_heads.box_predictor.use_sigmoid_ce
    logits, outputs.box_deltas = boxes
    outputs.class_logits = logits[:, :-1] if outputs.by_sigmoid else logits


def _compute_masks(network: GeneralizedRCNN, pyramid: Levels, boxes: list[Boxes]) -> torch.Tensor:
    """Return mask logits, R x K x S x S, at the boxes of each image."""
    heads = network.roi_heads
    pooled = heads.mask_pooler([pyramid[level] for level in heads.mask_in_features], boxes)
    return heads.mask_head.layers(pooled)
