"""Keypoints of COCO annotations, in normal form."""

from __future__ import annotations

from typing import Any

from cdl_d2.data.datasets.coco_findings import Findings, moderate
from cdl_d2.errors import CdlError


def count_keypoints(content: dict[str, Any]) -> dict[Any, int]:
    """Return the number of keypoints of each category's objects, by the category's id; none if no
    object has keypoints. Categories that name none have as many as the first object with some."""
    objects = (each for each in content["annotations"] if isinstance(each, dict))
    points = [each["keypoints"] for each in objects if each.get("keypoints")]
    if not points:
        return {}
    first = len(points[0]) if isinstance(points[0], list) else 0
    nested = first and isinstance(points[0][0], list)
    count = first if nested else first // 3
    named = {c["id"]: c.get("keypoints") for c in content["categories"]}
    return {i: len(k) if isinstance(k, list) and k else count for i, k in named.items()}


def normalize_keypoints(entry: dict[str, Any], count: int, where: str, findings: Findings) -> None:
    """Give an object `keypoints`, 3 numbers each, and `num_keypoints`, those that are labelled.

    Raises:
        CdlError: for another number of them, or what is no number, or no visibility of 0, 1, 2.
    """
    points = entry.get("keypoints")
    if not points:
        findings.repair("objects without keypoints, which count as not labelled", where)
        points = [0, 0, 0] * count
    if isinstance(points, list) and all(isinstance(p, list) and len(p) == 3 for p in points):
        findings.repair("keypoints in another form", where)
        points = [number for point in points for number in point]
    if not isinstance(points, list) or len(points) != 3 * count:
        raise CdlError(f"keypoints {points!r:.40} are not 3 numbers for each of {count}")
    normal = []
    for x, y, visibility in zip(points[::3], points[1::3], points[2::3], strict=True):
        seen = moderate(visibility)
        place = [0, 0] if seen == 0 and None in (x, y) else [moderate(x), moderate(y)]
        if seen not in (0, 1, 2) or None in place:
            values = [x, y, visibility]
            raise CdlError(f"keypoint {values!r:.60} is not x, y and a visibility of 0, 1 or 2")
        normal += [*place, int(seen)]
    labelled = sum(visibility > 0 for visibility in normal[2::3])
    if normal != points:
        findings.repair("keypoints as text or without a place", where)
    entry["keypoints"] = normal
    if type(entry.get("num_keypoints")) is not int:
        findings.repair("objects without num_keypoints", where)
        entry["num_keypoints"] = labelled
