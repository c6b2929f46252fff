"""COCO-format annotation files, checked before anything relies on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

REQUIRED = {
    "images": ("id", "file_name", "height", "width"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}


def read_coco(path: str | Path, parts: Sequence[str] = tuple(REQUIRED)) -> dict[str, Any]:
    """The content of an annotation file.

    Args:
        parts: what must be there; a file of test images has no annotations.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is empty or no JSON; if images, annotations or categories are missing or
            lack a key; if an annotation names an image or a category that is not there; if an id
            comes twice; or if a file name leads out of the folder of images.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no annotation file {path}")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:  # UnicodeDecodeError is one, too
        empty = not path.stat().st_size
        problem = "is empty" if empty else f"is not JSON ({error})"
        raise ValueError(f"{path} {problem}: expected COCO-format annotations") from error
    _check_parts(path, content, parts)
    if "annotations" in parts:
        _check_references(path, content)
    for image in content["images"]:
        name = PurePosixPath(str(image["file_name"]))
        if name.is_absolute() or ".." in name.parts or not name.name:
            raise ValueError(f"{path}: file_name '{name}' is not inside the image folder")
    return content


def class_names(content: dict[str, Any]) -> list[str]:
    """Names of the categories, in the order of their ids."""
    return [c["name"] for c in sorted(content["categories"], key=lambda c: c["id"])]


def _check_parts(path: Path, content: object, parts: Sequence[str]) -> None:
    for part in parts:
        entries = content.get(part) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise ValueError(f"{path} is JSON but not COCO format: it has no list {part!r}")
        if not entries and part != "annotations":
            raise ValueError(f"{path} has no {part}")
        for entry in entries:
            for key in REQUIRED[part]:
                if not isinstance(entry, dict) or key not in entry:
                    raise ValueError(f"{path} has {part} without {key!r}: {entry}")


def _check_references(path: Path, content: dict[str, Any]) -> None:
    known = {}
    for part in REQUIRED:
        ids = [entry["id"] for entry in content[part]]
        known[part] = set(ids)
        if len(known[part]) < len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise ValueError(f"{path} has several {part} of id {twice}: ids must be unique")
    for entry in content["annotations"]:
        for key, part in (("category_id", "categories"), ("image_id", "images")):
            if entry[key] not in known[part]:
                raise ValueError(
                    f"{path}: annotation {entry['id']} has {key} {entry[key]}, which is not in "
                    f"{part}: mend the file"
                )
