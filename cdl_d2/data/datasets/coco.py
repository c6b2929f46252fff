"""COCO-format annotation files, checked as a whole and brought to a normal form.

What pycocotools and Detectron2 read properly stays as it is. What they misread, and has one meaning
only, is repaired. Anything else is an error that names the entries.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cdl_d2.data.datasets.coco_categories import normalize_categories
from cdl_d2.data.datasets.coco_findings import Findings, whole
from cdl_d2.data.datasets.coco_images import normalize_images
from cdl_d2.data.datasets.coco_objects import normalize_objects
from cdl_d2.errors import CdlError

PARTS = ("images", "annotations", "categories")


def read_coco(
    path: str | Path, parts: Sequence[str] = PARTS, images: str | Path | None = None
) -> dict[str, Any]:
    """Return the content of an annotation file in normal form; what was repaired is logged.

    Args:
        parts: what must be there, of test images without annotations; without categories only the
            images are looked at.
        images: the folder that file names are relative to, for sizes and names that need it.

    Returns:
        `images` with `id`, `file_name`, `height` and `width`; `categories` with `id` and `name`;
        `annotations` as normalize_objects says; and whatever else the file has.

    Raises:
        FileNotFoundError: if there is no such file.
        CdlError: if it is empty or no JSON, or a part is missing; and for all entries together
            that cannot be used: references to what is not there, ids or names that come twice,
            file names that lead out of the folder of images, images of more pixels than
            codec.latent.max_pixels, and sizes, boxes, masks or keypoints that are none.
    """
    return check_coco(path, parts, images)[0]


def check_coco(
    path: str | Path, parts: Sequence[str] = PARTS, images: str | Path | None = None
) -> tuple[dict[str, Any], bool]:
    """Return what read_coco does, and whether the file itself is in another form."""
    path = Path(path)
    findings = Findings(path)
    content = _load(path, findings)
    _check_parts(path, content, parts)
    folder = None if images is None else Path(images)
    content["images"] = normalize_images(content["images"], folder, path.parent, findings)
    if "categories" in parts:
        objects = content.get("annotations", [])
        used = {whole(each.get("category_id")) for each in objects if isinstance(each, dict)}
        content["categories"] = normalize_categories(content["categories"], used, findings)
        if "annotations" in content:
            content["annotations"] = normalize_objects(content, findings)
    findings.close()
    return content, findings.repaired


def class_names(content: dict[str, Any]) -> list[str]:
    """Return the names of the categories, in the order of their ids."""
    return [c["name"] for c in sorted(content["categories"], key=lambda c: c["id"])]


def has_masks(content: dict[str, Any]) -> bool:
    """Return whether masks can be learned and evaluated: an object has one, or none is there."""
    annotations = content.get("annotations")
    return not annotations or any(entry.get("segmentation") for entry in annotations)


def _load(path: Path, findings: Findings) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"there is no annotation file {path}")
    data = path.read_bytes()
    if json.detect_encoding(data) != "utf-8":  # as the text editors of Windows write
        findings.repair("text that is not plain UTF-8", json.detect_encoding(data))
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError, too
        problem = f"is not JSON ({error})" if data else "is empty"
        raise CdlError(f"{path} {problem}: expected COCO-format annotations") from error


def _check_parts(path: Path, content: object, parts: Sequence[str]) -> None:
    known = content if isinstance(content, dict) else {}
    for part in {**dict.fromkeys(parts), **dict.fromkeys(known.keys() & PARTS)}:
        entries = known.get(part)
        if not isinstance(entries, list):
            raise CdlError(f"{path} is JSON but not COCO format: it has no list {part!r}")
        if not entries and part in parts and part != "annotations":
            raise CdlError(f"{path} has no {part}")
