"""Masks of COCO annotations, checked before pycocotools decodes them: it believes every number."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cdl_d2.errors import CdlError


def check_segmentation(segmentation: object, size: tuple[int, int]) -> None:
    """Raise CdlError unless a `segmentation` is none, polygons, or an RLE of the image.

    Args:
        size: (H, W) of the image. Polygons may leave it, on each side by its longer one.
    """
    if isinstance(segmentation, dict):
        _check_rle(segmentation, size)
    elif isinstance(segmentation, list):
        for polygon in segmentation:
            _check_polygon(polygon, size)
    elif segmentation is not None:
        raise CdlError(f"a {type(segmentation).__name__} is neither polygons nor an RLE")


def _check_polygon(polygon: object, size: tuple[int, int]) -> None:
    if not isinstance(polygon, list) or not set(map(type, polygon)) <= {int, float}:
        raise CdlError("a polygon is no list of numbers")
    lowest, highest = min(polygon, default=0), max(polygon, default=0)
    longest = max(size)
    if not (-longest <= lowest and highest <= 2 * longest and math.isfinite(sum(polygon))):
        raise CdlError(
            f"a polygon from {lowest!r:.20} to {highest!r:.20} is far outside of {size} pixels"
        )
    # Drawing takes memory for every pixel on the way.
    if len(polygon) * (highest - lowest) > 4 * size[0] * size[1]:
        corners = np.array(polygon[: len(polygon) // 2 * 2], dtype=np.float64).reshape(-1, 2)
        length = np.abs(corners - np.roll(corners, 1, axis=0)).sum()
        if length > 4 * (size[0] + 1) * (size[1] + 1):
            raise CdlError(f"a polygon of {length:.0f} pixels does not fit {size} pixels")


def _check_rle(rle: dict, size: tuple[int, int]) -> None:
    if rle.get("size") != list(size):
        raise CdlError(f"an RLE of size {rle.get('size')!r} is not of the image's {list(size)}")
    counts = rle.get("counts")
    if isinstance(counts, str):
        counts = _counts_of(counts)
    if not isinstance(counts, Sequence) or not set(map(type, counts)) <= {int}:
        raise CdlError("an RLE without counts, which are whole numbers or a string")
    if min(counts, default=0) < 0 or sum(counts) != size[0] * size[1]:
        raise CdlError(f"the counts of an RLE are not those of {size[0] * size[1]} pixels")


def _counts_of(text: str) -> list[int]:
    """The counts of a compressed RLE: 5 bits a character, lowest first, 32 where more follow; from
    the fourth on each is less the one two before."""
    codes = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise CdlError("the string of an RLE is damaged")
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > 7:
        raise CdlError("the string of an RLE has a count beyond 32 bits")
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    counts = np.add.reduceat((codes & 31) << shifts, starts)
    counts -= np.where(codes[ends] & 16, 1 << 5 * lengths, 0)  # the sign
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return counts.tolist()
