"""Masks of COCO annotations, validated before pycocotools decodes them without checks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from pycocotools import mask

from cdl_d2.data.datasets.coco_findings import as_integer
from cdl_d2.errors import CdlError


def normalize_segmentation(
    segmentation: object, size: tuple[int, int]
) -> tuple[list[list[float]] | dict[str, Any] | None, str]:
    """Return a mask as polygons of at least three points, an RLE or None, and the kind of repair.

    Polygons may exceed an image of size (H, W) on each side by its longer side.

    Raises:
        CdlError: if the mask is neither polygons nor an RLE of that size.
    """
    if not segmentation:
        return None, ""
    if isinstance(segmentation, dict):
        return _normalize_rle(segmentation, size)
    if not isinstance(segmentation, list):
        raise CdlError(f"a {type(segmentation).__name__} is neither polygons nor an RLE")
    if len(segmentation) == 1 and isinstance(segmentation[0], dict):
        return _normalize_rle(segmentation[0], size)[0], "masks in another format"
    polygons = _as_polygons(segmentation)
    for polygon in polygons:
        _check_polygon(polygon, size)
    kept = [polygon for polygon in polygons if len(polygon) >= 6 and len(polygon) % 2 == 0]
    if len(kept) < len(polygons):
        return kept or None, "masks with polygons of less than three points, left out"
    return kept, "" if polygons is segmentation else "masks in another format"


def compute_area(segmentation: list[list[float]] | dict[str, Any]) -> float:
    """Return the area of a mask: number of pixels of an RLE, enclosed area of polygons."""
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        return float(sum((_decode_counts(counts) if isinstance(counts, str) else counts)[1::2]))
    corners = (np.array(polygon, dtype=np.float64).reshape(-1, 2).T for polygon in segmentation)
    doubled = (x @ np.roll(y, 1) - y @ np.roll(x, 1) for x, y in corners)
    return float(sum(map(abs, doubled)) / 2)


def compute_box(segmentation: list[list[float]] | dict[str, Any]) -> list[float]:
    """Return the bounding box [left, top, width, height] of a mask."""
    if isinstance(segmentation, dict):
        counts, size = segmentation["counts"], segmentation["size"]
        rle = segmentation if isinstance(counts, str) else mask.frPyObjects(segmentation, *size)
        return mask.toBbox(rle).tolist()
    corners = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in segmentation])
    (left, top), (right, bottom) = corners.min(0).tolist(), corners.max(0).tolist()
    return [left, top, right - left, bottom - top]


def _as_polygons(parts: list[Any]) -> list[Any]:
    """Convert one flat list, or points that are lists, to a list of flat polygons."""
    if set(map(type, parts)) <= {int, float}:
        return [parts]
    if len(parts) >= 3 and all(_is_point(part) for part in parts):
        return [[number for point in parts for number in point]]
    nested = [isinstance(part, list) and part and all(map(_is_point, part)) for part in parts]
    if any(nested):
        return [
            [number for point in part for number in point] if is_nested else part
            for part, is_nested in zip(parts, nested, strict=True)
        ]
    return parts


def _is_point(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and {*map(type, value)} <= {int, float}


def _check_polygon(polygon: object, size: tuple[int, int]) -> None:
    if not isinstance(polygon, list) or not set(map(type, polygon)) <= {int, float}:
        raise CdlError("a polygon is not a list of numbers")
    lowest, highest = min(polygon, default=0), max(polygon, default=0)
    longest = max(size)
    if not (-longest <= lowest and highest <= 2 * longest and math.isfinite(sum(polygon))):
        raise CdlError(
            f"a polygon from {lowest!r:.20} to {highest!r:.20} is far outside of {size} pixels"
        )
    # Rasterizing takes memory for every pixel along the edges.
    if len(polygon) * (highest - lowest) > 4 * size[0] * size[1]:
        corners = np.array(polygon[: len(polygon) // 2 * 2], dtype=np.float64).reshape(-1, 2)
        length = np.abs(corners - np.roll(corners, 1, axis=0)).sum()
        if length > 4 * (size[0] + 1) * (size[1] + 1):
            raise CdlError(f"a polygon of length {length:.0f} does not fit {size} pixels")


def _normalize_rle(rle: dict[str, Any], size: tuple[int, int]) -> tuple[dict[str, Any], str]:
    """Return an RLE whose counts are a list or a string, and the kind of repair."""
    sides, counts = rle.get("size"), rle.get("counts")
    if not isinstance(sides, list) or [as_integer(side) for side in sides] != list(size):
        raise CdlError(f"an RLE of size {sides!r:.40} is not of the image's {list(size)}")
    if isinstance(counts, bytes):
        counts = counts.decode("latin-1")
    if isinstance(counts, str):
        if counts.startswith("b'"):  # the text of a bytes object, as str() gives it
            counts = counts[2:-1].replace("\\\\", "\\")
        lengths = _decode_counts(counts)
    elif isinstance(counts, list) and all(as_integer(count) is not None for count in counts):
        lengths = counts = [as_integer(count) for count in counts]
    else:
        raise CdlError("an RLE without counts: expected whole numbers or a string")
    if min(lengths, default=0) < 0 or sum(lengths) != size[0] * size[1]:
        raise CdlError(f"the counts of an RLE are not those of {size[0] * size[1]} pixels")
    normal = {"size": list(size), "counts": counts}
    is_normal = counts == rle["counts"] and set(map(type, sides)) == {int}
    is_normal &= isinstance(counts, str) or set(map(type, rle["counts"])) == {int}
    return normal, "" if is_normal else "masks in another format"


def _decode_counts(text: str) -> list[int]:
    """Decode the counts of a compressed RLE.

    A character has 5 bits, lowest first, and 32 if more follow; from the fourth count on, the
    difference to the count two before is stored.
    """
    codes = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise CdlError("the string of an RLE is corrupted")
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
