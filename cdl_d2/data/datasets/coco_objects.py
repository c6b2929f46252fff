"""Objects of a COCO-format file, in normal form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cdl_d2.data.datasets.coco_findings import (
    MAX_NUMBER,
    Findings,
    as_integer,
    as_number,
    label_record,
)
from cdl_d2.data.datasets.coco_keypoints import count_keypoints, normalize_keypoints
from cdl_d2.data.datasets.coco_masks import compute_area, compute_box, normalize_segmentation
from cdl_d2.errors import CdlError

FLAGS = {None: 0, 0: 0, 1: 1, "0": 0, "1": 1}  # values of iscrowd and ignore; True equals 1


def normalize_objects(content: dict[str, Any], findings: Findings) -> list[dict[str, Any]]:
    """Return the annotations of a file whose images and categories are in normal form.

    Each has `id` (from 1, unique), `image_id`, `category_id`, `bbox` (four numbers), `area`,
    `iscrowd` (1 also for objects to be ignored); `segmentation` (polygons of at least three points,
    or an RLE) if it has a mask; `keypoints` and `num_keypoints` if any object has keypoints.
    """
    images = {image["id"]: image for image in content["images"]}
    keypoints = count_keypoints(content)
    ids = {"image_id": images, "category_id": {c["id"] for c in content["categories"]}}
    kept: list[dict[str, Any]] = []
    without_mask: list[str] = []
    for index, annotation in enumerate(content["annotations"]):
        label = label_record("annotations", annotation, index)
        try:
            record = _with_references(annotation, ids, label, findings)
            _normalize_flags(record, label, findings)
            _normalize_shape(record, images[record["image_id"]], label, findings)
            if keypoints:
                count = keypoints[record["category_id"]]
                normalize_keypoints(record, count, label, findings)
        except CdlError as error:
            findings.fault(label, error)
        else:
            kept.append(record)
            without_mask += [] if "segmentation" in record else [label]
    for label in without_mask if len(without_mask) < len(kept) else ():
        findings.remark("objects without a mask, used for boxes only", label)
    _number(kept, findings)
    return kept


def _with_references(
    annotation: object, ids: Mapping[str, Any], label: str, findings: Findings
) -> dict[str, Any]:
    """Return a copy of an annotation; raise CdlError unless its image and category exist."""
    if not isinstance(annotation, dict):
        raise CdlError(f"{annotation!r:.40} is not an annotation")
    record = {"id": None, **annotation}
    for key, known_ids in ids.items():
        if key not in annotation:
            raise CdlError(f"annotations without {key!r}")
        record[key] = as_integer(annotation[key])
        if record[key] is None or record[key] not in known_ids:
            part = {"image_id": "images", "category_id": "categories"}[key]
            raise CdlError(f"{key} {annotation[key]!r:.40}, which is not in {part}")
        if type(annotation[key]) is not int:
            findings.repair(f"values of {key} as text or floats", label)
    return record


def _normalize_flags(record: dict[str, Any], label: str, findings: Findings) -> None:
    """Set `iscrowd` to 0 or 1; an object with `ignore` 1 counts as a crowd."""
    flags = {}
    for key in ("iscrowd", "ignore"):
        value = record.get(key)
        if not isinstance(value, str | int | float | None) or value not in FLAGS:
            raise CdlError(f"{key} {value!r:.40}: expected 0 or 1")
        flags[key] = FLAGS[value]
    if record.get("iscrowd") is None:
        findings.repair("annotations without iscrowd", label)
    elif type(record["iscrowd"]) is not int:
        findings.repair("values of iscrowd that are not 0 or 1", label)
    if flags["ignore"]:
        findings.repair("objects with ignore 1, used as crowds", label)
    record.pop("ignore", None)
    record["iscrowd"] = max(flags.values())


def _normalize_shape(
    record: dict[str, Any], image: dict[str, Any], label: str, findings: Findings
) -> None:
    """Normalize mask, box and area of an object."""
    size = image["height"], image["width"]
    mask, repair = normalize_segmentation(record.pop("segmentation", None), size)
    if repair:
        findings.repair(repair, label)
    if mask is not None:
        record["segmentation"] = mask
    if not record.get("bbox") and mask is not None:
        record["bbox"] = compute_box(mask)
        findings.repair("annotations without bbox, computed from the mask", label)
    _normalize_box(record, image, label, findings)
    area = as_number(record.get("area"))
    if area is not None and area >= 0:
        if area is not record["area"]:
            findings.repair("areas as text", label)
        record["area"] = area
    elif area is None and record.get("area") not in (None, ""):
        raise CdlError(f"area {record['area']!r:.40}: expected a number up to {MAX_NUMBER}")
    else:
        width, height = record["bbox"][2:]
        record["area"] = float(width * height) if mask is None else compute_area(mask)
        findings.repair("annotations without area", label)


def _normalize_box(
    record: dict[str, Any], image: dict[str, Any], label: str, findings: Findings
) -> None:
    box = record.get("bbox")
    numbers = [as_number(number) for number in box] if isinstance(box, list) else []
    if len(numbers) != 4 or None in numbers:
        raise CdlError(f"bbox {box!r:.100}, not [left, top, width, height]")
    if numbers != box:
        findings.repair("boxes as text", label)
    record["bbox"] = numbers
    left, top, width, height = numbers
    if min(width, height) < 0:
        raise CdlError(f"bbox {box!r:.100} has a width or height below 0")
    right, bottom = left + width, top + height
    horizontal, vertical = image["width"], image["height"]
    if min(width, height) == 0:
        findings.remark("boxes without area, ignored in training", label)
    elif min(right, bottom) <= 0 or left >= horizontal or top >= vertical:
        raise CdlError(
            f"bbox {box!r:.100}, which is not on {image['file_name']} of {horizontal}x{vertical} "
            "pixels"
        )
    elif min(left, top) < -1 or right > horizontal + 1 or bottom > vertical + 1:
        findings.remark("boxes that exceed their image, clipped in training", label)


def _number(annotations: list[dict[str, Any]], findings: Findings) -> None:
    """Renumber annotations from 1 if ids are invalid; to pycocotools, id 0 means unmatched."""
    ids: set[int] = set()
    invalid = []
    for record in annotations:
        number = record["id"]
        if type(number) is not int or not 1 <= number <= MAX_NUMBER or number in ids:
            invalid.append(number)
        else:
            ids.add(number)
    for number in invalid:
        kind = "annotation ids that are not unique whole numbers from 1, renumbered"
        findings.repair(kind, f"{number!r:.40}")
    for number, record in enumerate(annotations if invalid else (), 1):
        record["id"] = number
