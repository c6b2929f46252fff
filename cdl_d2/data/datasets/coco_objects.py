"""Objects of a COCO-format file, in normal form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cdl_d2.data.datasets.coco_findings import LARGEST, Findings, label_of, moderate, whole
from cdl_d2.data.datasets.coco_keypoints import count_keypoints, normalize_keypoints
from cdl_d2.data.datasets.coco_masks import area_of, box_of, normalize_segmentation
from cdl_d2.errors import CdlError

FLAGS = {None: 0, 0: 0, 1: 1, "0": 0, "1": 1}  # of iscrowd and ignore; True is 1


def normalize_objects(content: dict[str, Any], findings: Findings) -> list[dict[str, Any]]:
    """Return the annotations of a file whose images and categories are in normal form.

    Each has `id` (from 1, unique), `image_id`, `category_id`, `bbox` (four numbers), `area`,
    `iscrowd` (1 also for what is to be ignored); `segmentation` (polygons of three points or more,
    or an RLE) if it has a mask; and `keypoints` with `num_keypoints` if any object has some.
    """
    images = {image["id"]: image for image in content["images"]}
    keypoints = count_keypoints(content)
    known = {"image_id": images, "category_id": {c["id"] for c in content["categories"]}}
    kept: list[dict[str, Any]] = []
    without_mask: list[str] = []
    for index, given in enumerate(content["annotations"]):
        where = label_of("annotations", given, index)
        try:
            entry = _with_references(given, known, where, findings)
            _normalize_flags(entry, where, findings)
            _normalize_shape(entry, images[entry["image_id"]], where, findings)
            if keypoints:
                count = keypoints[entry["category_id"]]
                normalize_keypoints(entry, count, where, findings)
        except CdlError as error:
            findings.fault(where, error)
        else:
            kept.append(entry)
            without_mask += [] if "segmentation" in entry else [where]
    for where in without_mask if len(without_mask) < len(kept) else ():
        findings.remark("objects without a mask, which train boxes only", where)
    _number(kept, findings)
    return kept


def _with_references(
    given: object, known: Mapping[str, Any], where: str, findings: Findings
) -> dict[str, Any]:
    """A copy of an annotation that names an image and a category which are in the file."""
    if not isinstance(given, dict):
        raise CdlError(f"{given!r:.40} is no annotation")
    entry = {"id": None, **given}
    for key, ids in known.items():
        if key not in given:
            raise CdlError(f"annotations without {key!r}")
        entry[key] = whole(given[key])
        if entry[key] is None or entry[key] not in ids:
            part = {"image_id": "images", "category_id": "categories"}[key]
            raise CdlError(f"{key} {given[key]!r:.40}, which is not in {part}")
        if type(given[key]) is not int:
            findings.repair(f"values of {key} as text or floats", where)
    return entry


def _normalize_flags(entry: dict[str, Any], where: str, findings: Findings) -> None:
    """Make `iscrowd` 0 or 1; an object with `ignore` 1 counts as a crowd."""
    flags = {}
    for key in ("iscrowd", "ignore"):
        value = entry.get(key)
        if not isinstance(value, str | int | float | None) or value not in FLAGS:
            raise CdlError(f"{key} {value!r:.40}: expected 0 or 1")
        flags[key] = FLAGS[value]
    if entry.get("iscrowd") is None:
        findings.repair("annotations without iscrowd", where)
    elif type(entry["iscrowd"]) is not int:
        findings.repair("values of iscrowd that are not 0 or 1", where)
    if flags["ignore"]:
        findings.repair("objects with ignore 1, which count as crowds", where)
    entry.pop("ignore", None)
    entry["iscrowd"] = max(flags.values())


def _normalize_shape(
    entry: dict[str, Any], image: dict[str, Any], where: str, findings: Findings
) -> None:
    """Make mask, box and area those of an object on its image."""
    size = image["height"], image["width"]
    mask, repair = normalize_segmentation(entry.pop("segmentation", None), size)
    if repair:
        findings.repair(repair, where)
    if mask is not None:
        entry["segmentation"] = mask
    if not entry.get("bbox") and mask is not None:
        entry["bbox"] = box_of(mask)
        findings.repair("annotations without bbox, made of the mask", where)
    _normalize_box(entry, image, where, findings)
    area = moderate(entry.get("area"))
    if area is not None and area >= 0:
        if area is not entry["area"]:
            findings.repair("areas as text", where)
        entry["area"] = area
    elif area is None and entry.get("area") not in (None, ""):
        raise CdlError(f"area {entry['area']!r:.40}: expected a number up to {LARGEST}")
    else:
        width, height = entry["bbox"][2:]
        entry["area"] = float(width * height) if mask is None else area_of(mask)
        findings.repair("annotations without area", where)


def _normalize_box(
    entry: dict[str, Any], image: dict[str, Any], where: str, findings: Findings
) -> None:
    box = entry.get("bbox")
    numbers = [moderate(number) for number in box] if isinstance(box, list) else []
    if len(numbers) != 4 or None in numbers:
        raise CdlError(f"bbox {box!r:.100}, not [left, top, width, height]")
    if numbers != box:
        findings.repair("boxes as text", where)
    entry["bbox"] = numbers
    left, top, width, height = numbers
    if min(width, height) < 0:
        raise CdlError(f"bbox {box!r:.100} has a width or height below 0")
    right, bottom = left + width, top + height
    horizontal, vertical = image["width"], image["height"]
    if min(width, height) == 0:
        findings.remark("boxes without area, not trained on", where)
    elif min(right, bottom) <= 0 or left >= horizontal or top >= vertical:
        raise CdlError(
            f"bbox {box!r:.100}, which is not on {image['file_name']} of {horizontal}x{vertical} "
            "pixels"
        )
    elif min(left, top) < -1 or right > horizontal + 1 or bottom > vertical + 1:
        findings.remark("boxes that leave their image, cut to it in training", where)


def _number(annotations: list[dict[str, Any]], findings: Findings) -> None:
    """Give annotations ids from 1: pycocotools takes 0 for an object that nothing matches."""
    ids: set[int] = set()
    odd = []
    for entry in annotations:
        number = entry["id"]
        if type(number) is not int or not 1 <= number <= LARGEST or number in ids:
            odd.append(number)
        else:
            ids.add(number)
    for number in odd:
        what = "annotation ids that are not whole numbers from 1, each once, numbered anew"
        findings.repair(what, f"{number!r:.40}")
    for number, entry in enumerate(annotations if odd else (), 1):
        entry["id"] = number
