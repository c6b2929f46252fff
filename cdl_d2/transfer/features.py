"""Feature-level transfer: distances between the pyramids of student and teacher.

Formula (3) of *Learning in Compressed Domain via Knowledge Transfer*.
"""

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
    """Sum the distance between student and teacher features over the pyramid's levels.

    Args:
        student: level name to N x C x H_i x W_i; these levels are compared.
        teacher: features of the same shapes.
        distance: `mse`, the squared difference averaged over images, channels and positions, or
            `l2norm`, the norm of the whole difference as printed in formula (3), averaged over
            images.
        image_sizes: (H, W) of each image in pixels, to leave out positions outside of the images.
        strides: pixels per position of each level, along each side; needed with image_sizes.

    Returns:
        a scalar; zero for equal features, or without levels.

    Raises:
        CdlError: for an unknown distance, or levels that differ in shape.
    """
    if distance not in DISTANCES:
        raise CdlError(f"distance {distance!r} is not one of {', '.join(DISTANCES)}")
    total = []
    for level, features in student.items():
        target, shape = teacher.get(level), features.shape
        if target is None or shape != target.shape:
            raise CdlError(
                f"pyramid level {level} is {tuple(shape)} in the student and "
                f"{'missing' if target is None else tuple(target.shape)} in the teacher"
            )
        if image_sizes is None or strides is None:
            covered = features.new_ones(shape[0], 1, *shape[2:], dtype=torch.float32)
        else:
            covered = coverage_mask(image_sizes, strides[level], shape[2:], features.device)
        total.append(_level_distance(features.float(), target.float(), covered, distance))
    return torch.stack(total).sum() if total else torch.zeros(())


def _level_distance(
    student: torch.Tensor, teacher: torch.Tensor, covered: torch.Tensor, distance: str
) -> torch.Tensor:
    squared = F.mse_loss(student, teacher, reduction="none") * covered
    if distance == "mse":
        return squared.sum() / (covered.sum() * student.shape[1]).clamp(min=1)
    squared = squared.flatten(1).sum(1)
    positive = squared > 0  # the norm's gradient at zero is undefined; zero is used
    return torch.where(positive, squared.where(positive, 1.0).sqrt(), 0.0).mean()


def coverage_mask(
    image_sizes: Sequence[tuple[int, int]],
    stride: int,
    grid: Sequence[int],
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Return 1 for the grid positions that an image covers, at least partly, N x 1 x H_i x W_i."""
    covered = torch.zeros(len(image_sizes), 1, *grid, device=device)
    for mask, (height, width) in zip(covered, image_sizes, strict=True):
        mask[:, : -(-height // stride), : -(-width // stride)] = 1
    return covered
