"""Keypoints of COCO annotations, in normal form."""

from __future__ import annotations

from typing import Any

from cdl_d2.data.datasets.coco_findings import Findings, as_number
from cdl_d2.errors import CdlError


def count_keypoints(content: dict[str, Any]) -> dict[Any, int]:
    """Return the number of keypoints by category id, {} if no object has keypoints.

    A category without names of keypoints has as many as the first object with keypoints.
    """
    objects = (record for record in content["annotations"] if isinstance(record, dict))
    points = [record["keypoints"] for record in objects if record.get("keypoints")]
    if not points:
        return {}
    first = len(points[0]) if isinstance(points[0], list) else 0
    nested = first and isinstance(points[0][0], list)
    count = first if nested else first // 3
    names = {c["id"]: c.get("keypoints") for c in content["categories"]}
    return {i: len(n) if isinstance(n, list) and n else count for i, n in names.items()}


def keypoint_names(content: dict[str, Any]) -> list[str]:
    """Return the names of keypoints of the first category that has some; [] if none has."""
    names = (category.get("keypoints") for category in content["categories"])
    return next((list(map(str, n)) for n in names if n and isinstance(n, list)), [])


def normalize_keypoints(record: dict[str, Any], count: int, label: str, findings: Findings) -> None:
    """Set `keypoints` (x, y, visibility each) and `num_keypoints` (labelled ones) of an object.

    Raises:
        CdlError: if there are not `count` keypoints, or one is invalid.
    """
    points = record.get("keypoints")
    if not points:
        findings.repair("objects without keypoints, used as not labelled", label)
        points = [0, 0, 0] * count
    if isinstance(points, list) and all(isinstance(p, list) and len(p) == 3 for p in points):
        findings.repair("keypoints in another format", label)
        points = [number for point in points for number in point]
    if not isinstance(points, list) or len(points) != 3 * count:
        raise CdlError(f"keypoints {points!r:.40} are not 3 numbers for each of {count}")
    normal = []
    for x, y, visibility in zip(points[::3], points[1::3], points[2::3], strict=True):
        flag = as_number(visibility)
        position = [0, 0] if flag == 0 and None in (x, y) else [as_number(x), as_number(y)]
        if flag not in (0, 1, 2) or None in position:
            values = [x, y, visibility]
            raise CdlError(f"keypoint {values!r:.60} is not x, y and a visibility of 0, 1 or 2")
        normal += [*position, int(flag)]
    labelled = sum(visibility > 0 for visibility in normal[2::3])
    if normal != points:
        findings.repair("keypoints as text or without a position", label)
    record["keypoints"] = normal
    if type(record.get("num_keypoints")) is not int:
        findings.repair("objects without num_keypoints", label)
        record["num_keypoints"] = labelled
