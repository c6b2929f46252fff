"""Transfer losses of a detector with a feature pyramid, of any library.

Formulas (2) and (3) of *Learning in Compressed Domain via Knowledge Transfer*.

Shapes: N images, A anchors per position, H_i x W_i positions of level i, R sampled proposals, K
classes, S x S mask pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from cdl_d2.errors import CdlError
from cdl_d2.transfer.features import coverage_mask, feature_transfer_loss
from cdl_d2.transfer.outputs import (
    anchor_delta_transfer_loss,
    box_delta_transfer_loss,
    class_transfer_loss,
    mask_transfer_loss,
    objectness_transfer_loss,
    sigmoid_class_transfer_loss,
)
from cdl_d2.transfer.terms import TransferTerms

ANCHOR_TERMS = {"objectness", "anchor_deltas"}
BOX_TERMS = {"class", "box_deltas"}
OUTPUT_TERMS = (*sorted(ANCHOR_TERMS), *sorted(BOX_TERMS), "mask")
CHOICES = {
    "anchors": ("all", "sampled"),
    "masks": ("all", "foreground"),
    "heads": ("student", "teacher"),
}


@dataclass
class DetectorOutputs:
    """Outputs of a detector for a batch; those that no term compares may be missing.

    Attributes:
        pyramid: level name to N x C x H_i x W_i features.
        objectness: level name to N x A x H_i x W_i logits.
        anchor_deltas: level name to N x 4A x H_i x W_i.
        class_logits: R x (K + 1); R x K of a head with sigmoids.
        by_sigmoid: the head predicts each class by a sigmoid, not all by a softmax.
        box_deltas: R x 4K, or R x 4 for class-agnostic boxes.
        mask_logits: R x K x S x S, of all sampled proposals or of the foreground ones.
        sampled_anchors: level name to N x A x H_i x W_i booleans, the anchors in a student's own
            loss.
    """

    pyramid: Mapping[str, torch.Tensor]
    objectness: Mapping[str, torch.Tensor] | None = None
    anchor_deltas: Mapping[str, torch.Tensor] | None = None
    class_logits: torch.Tensor | None = None
    box_deltas: torch.Tensor | None = None
    mask_logits: torch.Tensor | None = None
    by_sigmoid: bool = False
    sampled_anchors: Mapping[str, torch.Tensor] | None = None


class DetectorTransfer(TransferTerms):
    """Terms `features`, `objectness`, `anchor_deltas`, `class`, `box_deltas` and `mask`.

    The paper does not give the divisor of a term. Here each is an average over everything that it
    compares, coordinates, classes and pixels included.

    Args:
        weight: lambda of formula (4).
        weights: weight of each term; None for 1 each.
        distance: distance of features, `mse` or `l2norm`.
        ignore_padding: leave out positions and anchors outside of the images.
        anchors: compare `all` anchors (formula 2), nearly all of which are plain background, or
            those `sampled` for the region proposal network's own loss, positive or not: the losses
            then have about the size of the task's.
        masks: compare masks of `all` sampled proposals (formula 2) or of `foreground` ones.
        heads: heads applied to the student's features: the `student`'s own (formula 2), or the
            `teacher`'s frozen ones, so that the student's heads learn from the task alone (CrossKD,
            arXiv 2306.11369, for two stages).

    Attributes:
        needs_anchors: outputs of the region proposal network are compared.
        needs_boxes: classes or boxes of sampled proposals are compared.

    Raises:
        CdlError: for an unknown term, distance or choice, or an invalid weight.
    """

    KNOWN = frozenset({"features", *OUTPUT_TERMS})

    def __init__(
        self,
        weight: float = 1.0,
        weights: Mapping[str, float] | None = None,
        distance: str = "mse",
        ignore_padding: bool = True,
        anchors: str = "all",
        masks: str = "all",
        heads: str = "student",
    ):
        super().__init__(weight, weights, distance)
        self._ignore_padding = ignore_padding
        self.anchors, self.masks, self.heads = anchors, masks, heads
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise CdlError(f"{name} {value!r} of transfer is not one of {', '.join(choices)}")
        self.needs_anchors = not self.terms.isdisjoint(ANCHOR_TERMS)
        self.needs_boxes = not self.terms.isdisjoint(BOX_TERMS)

    def __call__(
        self,
        student: DetectorOutputs,
        teacher: DetectorOutputs,
        image_sizes: Sequence[tuple[int, int]],
        strides: Mapping[str, int],
    ) -> dict[str, torch.Tensor]:
        """Return `loss_transfer_<term>`, weighted scalars; zero without a common level.

        Args:
            student: outputs of the student.
            teacher: outputs of the teacher for the same batch, at the same proposals.
            image_sizes: (H, W) of each image in pixels.
            strides: pixels per position of each level, along each side.
        """
        losses = {}
        if "features" in self.terms:
            shared = {k: v for k, v in student.pyramid.items() if k in teacher.pyramid}
            sizes = image_sizes if self._ignore_padding else None
            options = {"distance": self.distance, "image_sizes": sizes, "strides": strides}
            losses["features"] = _zero(student)
            if shared:
                losses["features"] = feature_transfer_loss(shared, teacher.pyramid, **options)
        if self.needs_anchors:
            losses |= self._anchor_losses(student, teacher, image_sizes, strides)
        if "class" in self.terms:
            compare = sigmoid_class_transfer_loss if student.by_sigmoid else class_transfer_loss
            losses["class"] = compare(student.class_logits, teacher.class_logits)
        if "box_deltas" in self.terms:
            losses["box_deltas"] = box_delta_transfer_loss(student.box_deltas, teacher.box_deltas)
        if "mask" in self.terms and student.mask_logits is not None:
            losses["mask"] = mask_transfer_loss(student.mask_logits, teacher.mask_logits)
        return self.weighted(losses)

    def _anchor_losses(
        self,
        student: DetectorOutputs,
        teacher: DetectorOutputs,
        image_sizes: Sequence[tuple[int, int]],
        strides: Mapping[str, int],
    ) -> dict[str, torch.Tensor]:
        """Return the losses of `objectness` and `anchor_deltas`, over the anchors to compare."""
        terms = sorted(self.terms & ANCHOR_TERMS)
        outputs = {term: (getattr(student, term), getattr(teacher, term)) for term in terms}
        levels = [level for level in outputs[terms[0]][0] if level in outputs[terms[0]][1]]
        if not levels:
            return dict.fromkeys(terms, _zero(student))
        valid = None
        if self._ignore_padding:
            step = 4 if terms[0] == "anchor_deltas" else 1
            anchors = {level: outputs[terms[0]][0][level][:, ::step] for level in levels}
            valid = anchors_on_images(anchors, image_sizes, strides)
        if self.anchors == "sampled":
            sampled = _flatten_logits([student.sampled_anchors[level] for level in levels])
            valid = sampled if valid is None else valid & sampled
        flat = {
            term: [_FLATTEN[term]([values[level] for level in levels]) for values in outputs[term]]
            for term in terms
        }
        return {term: _ANCHOR_LOSSES[term](*flat[term], valid) for term in terms}


def _zero(student: DetectorOutputs) -> torch.Tensor:
    """Return zero, with a gradient of zero for the student's features."""
    return torch.stack([f.flatten()[:0].sum() for f in student.pyramid.values()]).sum()


def anchors_on_images(
    objectness: Mapping[str, torch.Tensor],
    image_sizes: Sequence[tuple[int, int]],
    strides: Mapping[str, int],
) -> torch.Tensor:
    """Return N x all anchors booleans, true for anchors on their image; `objectness` has shapes."""
    covered = {
        level: coverage_mask(image_sizes, strides[level], logits.shape[2:], logits.device)
        for level, logits in objectness.items()
    }
    return _flatten_logits([covered[k].bool().expand_as(v) for k, v in objectness.items()])


def anchors_by_level(
    anchors: torch.Tensor, objectness: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Split N x all anchors into N x A x H_i x W_i for each level, as the shapes of `objectness`.

    Anchors are in the order of levels, rows, columns and anchors of a position, which Detectron2
    and torchvision share.
    """
    sizes = [logits[0].numel() for logits in objectness.values()]
    return {
        level: part.view(len(logits), *logits.shape[2:], -1).movedim(-1, 1)
        for (level, logits), part in zip(objectness.items(), anchors.split(sizes, 1), strict=True)
    }


def _flatten_logits(levels: Sequence[torch.Tensor]) -> torch.Tensor:
    """Concatenate N x A x H_i x W_i of each level to N x all anchors."""
    return torch.cat([level.flatten(1) for level in levels], dim=1)


def _flatten_deltas(levels: Sequence[torch.Tensor]) -> torch.Tensor:
    """Concatenate N x 4A x H_i x W_i of each level to N x all anchors x 4."""
    flat = [d.unflatten(1, (-1, 4)).movedim(2, -1).flatten(1, 3) for d in levels]
    return torch.cat(flat, dim=1)


_FLATTEN = {"objectness": _flatten_logits, "anchor_deltas": _flatten_deltas}
_ANCHOR_LOSSES = {
    "objectness": objectness_transfer_loss,
    "anchor_deltas": anchor_delta_transfer_loss,
}
