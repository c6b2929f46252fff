"""COCO-format annotation files, validated and converted to a normal form.

What pycocotools and Detectron2 read correctly stays as it is. What they misread, and what is
unambiguous, is repaired. Anything else is an error that names the records.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cdl_d2.data.datasets.coco_categories import normalize_categories
from cdl_d2.data.datasets.coco_findings import Findings, as_integer
from cdl_d2.data.datasets.coco_images import normalize_images
from cdl_d2.data.datasets.coco_objects import normalize_objects
from cdl_d2.errors import CdlError

PARTS = ("images", "annotations", "categories")


def read_coco(
    path: str | Path, parts: Sequence[str] = PARTS, images: str | Path | None = None
) -> dict[str, Any]:
    """Return the content of an annotation file in normal form; log repairs.

    Args:
        path: path of the file.
        parts: required parts; without `categories`, only the images are checked.
        images: folder of the images, to repair file names and missing sizes.

    Returns:
        `images` with `id`, `file_name`, `height` and `width`; `categories` with `id` and `name`;
        `annotations` in the form of normalize_objects; and the file's other content.

    Raises:
        FileNotFoundError: if the file does not exist.
        CdlError: if it is not JSON or lacks a part; or with all invalid records: references to
            missing records, duplicate ids or names, file names outside the image folder, images
            larger than `max_pixels`, and invalid sizes, boxes, masks or keypoints.
    """
    return check_coco(path, parts, images)[0]


def check_coco(
    path: str | Path, parts: Sequence[str] = PARTS, images: str | Path | None = None
) -> tuple[dict[str, Any], bool]:
    """Return the content as read_coco does, and whether it differs from the file."""
    path = Path(path)
    findings = Findings(path)
    content = _load(path, findings)
    _check_parts(path, content, parts)
    folder = None if images is None else Path(images)
    content["images"] = normalize_images(content["images"], folder, path.parent, findings)
    if "categories" in parts:
        objects = content.get("annotations", [])
        used = {as_integer(o.get("category_id")) for o in objects if isinstance(o, dict)}
        content["categories"] = normalize_categories(content["categories"], used, findings)
        if "annotations" in content:
            content["annotations"] = normalize_objects(content, findings)
    findings.close()
    return content, findings.repaired


def class_names(content: dict[str, Any]) -> list[str]:
    """Return the names of the categories, in the order of their ids."""
    return [c["name"] for c in sorted(content["categories"], key=lambda c: c["id"])]


def has_masks(content: dict[str, Any]) -> bool:
    """Return whether an object has a mask, or there are no objects."""
    annotations = content.get("annotations")
    return not annotations or any(record.get("segmentation") for record in annotations)


def _load(path: Path, findings: Findings) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"there is no annotation file {path}")
    data = path.read_bytes()
    if json.detect_encoding(data) != "utf-8":  # as text editors of Windows write
        findings.repair("text that is not UTF-8", json.detect_encoding(data))
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError, too
        problem = f"is not JSON ({error})" if data else "is empty"
        raise CdlError(f"{path} {problem}: expected COCO-format annotations") from error


def _check_parts(path: Path, content: object, parts: Sequence[str]) -> None:
    record_lists = content if isinstance(content, dict) else {}
    for part in {**dict.fromkeys(parts), **dict.fromkeys(record_lists.keys() & PARTS)}:
        records = record_lists.get(part)
        if not isinstance(records, list):
            raise CdlError(f"{path} is JSON but not COCO format: it has no list {part!r}")
        if not records and part in parts and part != "annotations":
            raise CdlError(f"{path} has no {part}")
