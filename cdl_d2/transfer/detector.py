"""All transfer losses of a detector with a feature pyramid, whichever library it is built with.

Shapes: N images, A anchors a cell, H_i x W_i cells of level i, R sampled proposals, K classes,
S x S mask pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from cdl_d2.errors import CdlError
from cdl_d2.transfer.features import covered_cells, feature_transfer_loss
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
ANCHORS = ("all", "sampled")  # that are compared
PROPOSALS = ("all", "foreground")  # of which masks are compared
HEADS = ("student", "teacher")  # through which the student's features become outputs


@dataclass
class DetectorOutputs:
    """What a detector computes from a batch; only what the chosen terms compare need be there.

    Attributes:
        pyramid: level name to N x C x H_i x W_i features.
        objectness: level name to N x A x H_i x W_i logits.
        anchor_deltas: level name to N x 4A x H_i x W_i.
        class_logits: R x (K + 1); R x K of a head that predicts each class by a sigmoid.
        by_sigmoid: whether the head does, and not by a softmax.
        box_deltas: R x 4K, or R x 4 for class-agnostic boxes.
        mask_logits: R x K x S x S, of all sampled proposals or of the foreground ones.
        sampled_anchors: level name to N x A x H_i x W_i booleans, those that the task's own loss
            is averaged over; of a student.
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
    """Formulas (2) and (3): `features` of the pyramid, and `objectness`, `anchor_deltas`, `class`,
    `box_deltas` and `mask` of the heads.

    The paper does not say what a term is divided by. Here each is an average over what it compares,
    over coordinates, classes and pixels too.

    Args:
        weight, weights, distance: see TransferTerms.
        ignore_padding: leave out cells and anchors outside of the images.
        anchors: compare `all` anchors (formula 2), of which nearly all are plain background, or
            those that the region proposal network's own loss has `sampled`, positive or not: the
            losses then have about the size of the task's.
        masks: compare masks on `all` sampled proposals (formula 2) or the `foreground` ones.
        heads: whose heads make outputs of the student's features: the `student`'s own (formula 2),
            or the `teacher`'s, which are frozen, so that only features learn from the teacher and
            the student's heads from the task alone (CrossKD, arXiv 2306.11369, for two stages).

    Raises:
        CdlError: see TransferTerms; for another choice of masks or heads.
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
        for name, value, known in (
            ("anchors", anchors, ANCHORS),
            ("masks", masks, PROPOSALS),
            ("heads", heads, HEADS),
        ):
            if value not in known:
                raise CdlError(f"{name} {value!r} of transfer is not one of {', '.join(known)}")
        self._ignore_padding, self.heads = ignore_padding, heads
        self.anchors, self.masks = anchors, masks

    @property
    def needs_anchors(self) -> bool:
        """Whether outputs of the region proposal network are compared."""
        return bool(self.terms & ANCHOR_TERMS)

    @property
    def needs_boxes(self) -> bool:
        """Whether classes or boxes of sampled proposals are compared."""
        return bool(self.terms & BOX_TERMS)

    def __call__(
        self,
        student: DetectorOutputs,
        teacher: DetectorOutputs,
        image_sizes: Sequence[tuple[int, int]],
        strides: Mapping[str, int],
    ) -> dict[str, torch.Tensor]:
        """`loss_transfer_<term>`, weighted scalars, of the levels that both have; zero if there are
        none.

        Args:
            student, teacher: of the same batch, at the same proposals.
            image_sizes: (H, W) of each image in pixels.
            strides: pixels a side of a cell of each level.
        """
        losses = {}
        if "features" in self.terms:
            losses["features"] = self._of_features(student, teacher, image_sizes, strides)
        for name in sorted(self.terms & ANCHOR_TERMS):
            losses[name] = self._of_anchors(name, student, teacher, image_sizes, strides)
        if "class" in self.terms:
            compare = sigmoid_class_transfer_loss if student.by_sigmoid else class_transfer_loss
            losses["class"] = compare(student.class_logits, teacher.class_logits)
        if "box_deltas" in self.terms:
            losses["box_deltas"] = box_delta_transfer_loss(student.box_deltas, teacher.box_deltas)
        if "mask" in self.terms and student.mask_logits is not None:
            losses["mask"] = mask_transfer_loss(student.mask_logits, teacher.mask_logits)
        return self.weighted(losses)

    def _of_features(
        self,
        student: DetectorOutputs,
        teacher: DetectorOutputs,
        image_sizes: Sequence[tuple[int, int]],
        strides: Mapping[str, int],
    ) -> torch.Tensor:
        shared = {k: v for k, v in student.pyramid.items() if k in teacher.pyramid}
        if not shared:
            return _nothing_of(student)
        return feature_transfer_loss(
            shared,
            teacher.pyramid,
            distance=self.distance,
            image_sizes=image_sizes if self._ignore_padding else None,
            strides=strides,
        )

    def _of_anchors(
        self,
        name: str,
        student: DetectorOutputs,
        teacher: DetectorOutputs,
        image_sizes: Sequence[tuple[int, int]],
        strides: Mapping[str, int],
    ) -> torch.Tensor:
        """The loss of `objectness` or `anchor_deltas`, over the anchors that count."""
        ours, theirs = getattr(student, name), getattr(teacher, name)
        levels = [level for level in ours if level in theirs]
        if not levels:
            return _nothing_of(student)
        numbers = 4 if name == "anchor_deltas" else 1  # of an anchor
        valid = None
        if self._ignore_padding:
            anchors = {level: ours[level][:, ::numbers] for level in levels}
            valid = anchors_on_images(anchors, image_sizes, strides)
        if self.anchors == "sampled":
            sampled = _flat_logits([student.sampled_anchors[level] for level in levels])
            valid = sampled if valid is None else valid & sampled
        flatten = _flat_deltas if name == "anchor_deltas" else _flat_logits
        compare = {
            "objectness": objectness_transfer_loss,
            "anchor_deltas": anchor_delta_transfer_loss,
        }[name]
        both = (flatten([outputs[level] for level in levels]) for outputs in (ours, theirs))
        return compare(*both, valid)


def _nothing_of(student: DetectorOutputs) -> torch.Tensor:
    """Return zero, with a gradient of zero for the student's features."""
    return torch.stack([f.flatten()[:0].sum() for f in student.pyramid.values()]).sum()


def anchors_on_images(
    objectness: Mapping[str, torch.Tensor],
    image_sizes: Sequence[tuple[int, int]],
    strides: Mapping[str, int],
) -> torch.Tensor:
    """Which anchors lie on their image, N x all anchors, booleans."""
    covered = {
        level: covered_cells(image_sizes, strides[level], logits.shape[2:], logits.device)
        .bool()
        .expand_as(logits)
        for level, logits in objectness.items()
    }
    return _flat_logits(list(covered.values()))


def anchors_by_level(
    anchors: torch.Tensor, objectness: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """N x all anchors, in the order of levels, rows, columns and anchors of a cell that Detectron2
    and torchvision share, as a tensor of each level, of the shape that its `objectness` has."""
    sizes = [logits[0].numel() for logits in objectness.values()]
    return {
        level: part.view(len(logits), *logits.shape[2:], -1).movedim(-1, 1)
        for (level, logits), part in zip(objectness.items(), anchors.split(sizes, 1), strict=True)
    }


def _flat_logits(levels: Sequence[torch.Tensor]) -> torch.Tensor:
    """N x A x H_i x W_i a level to N x all anchors."""
    return torch.cat([level.flatten(1) for level in levels], dim=1)


def _flat_deltas(levels: Sequence[torch.Tensor]) -> torch.Tensor:
    """N x 4A x H_i x W_i a level to N x all anchors x 4, in the order of _flat_logits."""
    flat = [d.unflatten(1, (-1, 4)).movedim(2, -1).flatten(1, 3) for d in levels]
    return torch.cat(flat, dim=1)
