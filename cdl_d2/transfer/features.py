"""Feature-level transfer: distances between the pyramids of student and teacher (formula 3 of
*Learning in Compressed Domain via Knowledge Transfer*)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F

from cdl_d2.errors import CdlError

DISTANCES = ("mse", "l2norm")


def feature_transfer_loss(
    student: Mapping[str, torch.Tensor],
    teacher: Mapping[str, torch.Tensor],
    *,
    distance: str = "mse",
    image_sizes: Sequence[tuple[int, int]] | None = None,
    strides: Mapping[str, int] | None = None,
) -> torch.Tensor:
    """Sum over the pyramid's levels of the distance between student and teacher features.

    Args:
        student, teacher: level name to N x C x H_i x W_i. The levels of `student` are compared.
        distance: `mse`, the squared difference averaged over images, channels and cells, or
            `l2norm`, the norm of the whole difference as formula (3) is printed, averaged over
            images.
        image_sizes, strides: if both are given, (H, W) of each image in pixels and the pixels a
            side of a level's cell: only the cells that an image covers are compared.

    Returns:
        a scalar; zero for equal features, or without levels.

    Raises:
        CdlError: for an unknown distance, or levels that differ in shape.
    """
    if distance not in DISTANCES:
        raise CdlError(f"distance {distance!r} is not one of {', '.join(DISTANCES)}")
    total = []
    for level, ours in student.items():
        theirs = teacher.get(level)
        if theirs is None or ours.shape != theirs.shape:
            raise CdlError(
                f"pyramid level {level} is {tuple(ours.shape)} in the student and "
                f"{'missing' if theirs is None else tuple(theirs.shape)} in the teacher"
            )
        if image_sizes is None or strides is None:
            covered = ours.new_ones(len(ours), 1, *ours.shape[2:], dtype=torch.float32)
        else:
            covered = covered_cells(image_sizes, strides[level], ours.shape[2:], ours.device)
        total.append(_level_distance(ours.float(), theirs.float(), covered, distance))
    return torch.stack(total).sum() if total else torch.zeros(())


def _level_distance(
    ours: torch.Tensor, theirs: torch.Tensor, covered: torch.Tensor, distance: str
) -> torch.Tensor:
    squared = F.mse_loss(ours, theirs, reduction="none") * covered
    if distance == "mse":
        return squared.sum() / (covered.sum() * ours.shape[1]).clamp(min=1)
    squared = squared.flatten(1).sum(1)
    positive = squared > 0  # the norm's gradient at zero is not defined; ours is zero
    return torch.where(positive, squared.where(positive, 1.0).sqrt(), 0.0).mean()


def covered_cells(
    image_sizes: Sequence[tuple[int, int]],
    stride: int,
    grid: Sequence[int],
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """One for the cells of a grid that each image covers at least partly, N x 1 x H_i x W_i."""
    covered = torch.zeros(len(image_sizes), 1, *grid, device=device)
    for mask, (height, width) in zip(covered, image_sizes, strict=True):
        mask[:, : -(-height // stride), : -(-width // stride)] = 1
    return covered
