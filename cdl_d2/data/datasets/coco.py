"""COCO-format annotation files, checked before anything relies on them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from cdl_d2.codec.latent import check_pixels
from cdl_d2.data.datasets.coco_masks import check_segmentation
from cdl_d2.errors import CdlError

LARGEST = 2**53  # up to which whole numbers are floats, too
REQUIRED = {
    "images": ("id", "file_name", "height", "width"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}


def read_coco(path: str | Path, parts: Sequence[str] = tuple(REQUIRED)) -> dict[str, Any]:
    """The content of an annotation file; `iscrowd` and `area`, where missing, are filled in.

    Args:
        parts: what must be there; a file of test images has no annotations.

    Raises:
        FileNotFoundError: if there is no such file.
        CdlError: if it is empty or no JSON; if images, annotations or categories are missing or
            lack a key; if an annotation names an image or a category that is not there; if an id
            or a category's name comes twice; if a file name leads out of the folder of images; if
            an image has more pixels than codec.latent.max_pixels; if a mask is no polygons, or no
            RLE, of its image; or if a size, a box or another value is not of its kind.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no annotation file {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError, too
        empty = not path.stat().st_size
        problem = "is empty" if empty else f"is not JSON ({error})"
        raise CdlError(f"{path} {problem}: expected COCO-format annotations") from error
    _check_parts(path, content, parts)
    for image in content["images"]:
        _check_image(path, image)
    if "annotations" in parts:
        _check_references(path, content)
        _check_names(path, content["categories"])
        sizes = {i["id"]: (i["height"], i["width"]) for i in content["images"]}
        for entry in content["annotations"]:
            _check_box(path, entry)
            _check_mask(path, entry, sizes[entry["image_id"]])
            _check_keypoints(path, entry)
            entry.setdefault("iscrowd", 0)
            entry.setdefault("area", float(entry["bbox"][2] * entry["bbox"][3]))
    return content


def class_names(content: dict[str, Any]) -> list[str]:
    """Names of the categories, in the order of their ids."""
    return [c["name"] for c in sorted(content["categories"], key=lambda c: c["id"])]


def _check_parts(path: Path, content: object, parts: Sequence[str]) -> None:
    for part in parts:
        entries = content.get(part) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise CdlError(f"{path} is JSON but not COCO format: it has no list {part!r}")
        if not entries and part != "annotations":
            raise CdlError(f"{path} has no {part}")
        for entry in entries:
            for key in REQUIRED[part]:
                if not isinstance(entry, dict) or key not in entry:
                    raise CdlError(f"{path} has {part} without {key!r}: {entry}")


def _check_image(path: Path, image: dict[str, Any]) -> None:
    name = image["file_name"]
    parts = PurePosixPath(name if isinstance(name, str) else "")
    if not parts.name or parts.is_absolute() or ".." in parts.parts:
        raise CdlError(f"{path}: file_name {name!r} is not inside the image folder")
    for side in ("height", "width"):
        if type(image[side]) is not int or image[side] < 1:
            raise CdlError(f"{path}: {name} has {side} {image[side]!r}, not a number of pixels")
    try:
        check_pixels((image["height"], image["width"]))
    except CdlError as error:
        raise CdlError(f"{path}: {name}: {error}") from error


def _check_names(path: Path, categories: list[dict[str, Any]]) -> None:
    names: set[str] = set()
    for name in (category["name"] for category in categories):
        if not isinstance(name, str) or name in names:
            raise CdlError(f"{path}: category name {name!r} is not a text of its own")
        names.add(name)


def _check_box(path: Path, entry: dict[str, Any]) -> None:
    box = entry["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_moderate, box)):
        raise CdlError(
            f"{path}: annotation {entry['id']} has bbox {box!r}, not [left, top, width, height]"
        )
    if entry.get("iscrowd", 0) not in (0, 1) or not _is_moderate(entry.get("area", 0)):
        raise CdlError(
            f"{path}: annotation {entry['id']} has iscrowd {entry.get('iscrowd')!r} and area "
            f"{entry.get('area')!r}: expected 0 or 1, and a number"
        )


def _is_moderate(value: object) -> bool:
    """Whether a value is a number that every array holds."""
    return type(value) in (int, float) and abs(value) <= LARGEST


def _check_mask(path: Path, entry: dict[str, Any], size: tuple[int, int]) -> None:
    try:
        check_segmentation(entry.get("segmentation"), size)
    except CdlError as error:
        raise CdlError(f"{path}: annotation {entry['id']}: {error}") from error


def _check_keypoints(path: Path, entry: dict[str, Any]) -> None:
    """Raise CdlError for keypoints that are none; fill in `num_keypoints`, which are visible."""
    if entry.get("keypoints") is None:
        return
    points = entry["keypoints"]
    if not isinstance(points, list) or len(points) % 3 or not all(map(_is_moderate, points)):
        raise CdlError(
            f"{path}: annotation {entry['id']} has keypoints {points!r:.40}, not [x, y, "
            "visibility, ...]"
        )
    visible = entry.setdefault("num_keypoints", sum(v > 0 for v in points[2::3]))
    if not _is_moderate(visible):
        raise CdlError(
            f"{path}: annotation {entry['id']} has num_keypoints {visible!r:.40}, not a number"
        )


def _check_references(path: Path, content: dict[str, Any]) -> None:
    known = {}
    for part in REQUIRED:
        ids = [entry["id"] for entry in content[part]]
        wrong = [i for i in ids if type(i) is not int or not _is_moderate(i)]
        if wrong:
            raise CdlError(
                f"{path} has {part} of id {wrong[0]!r:.40}: ids must be whole numbers up to 2^53"
            )
        known[part] = set(ids)
        if len(known[part]) < len(ids):
            ((twice, _),) = Counter(ids).most_common(1)
            raise CdlError(f"{path} has several {part} of id {twice}: ids must be unique")
    for entry in content["annotations"]:
        for key, part in (("category_id", "categories"), ("image_id", "images")):
            if not isinstance(entry[key], int | float) or entry[key] not in known[part]:
                raise CdlError(
                    f"{path}: annotation {entry['id']} has {key} {entry[key]}, which is not in "
                    f"{part}: mend the file"
                )
