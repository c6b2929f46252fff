"""COCO-format files as exporting tools write them: a clean one, and ways in which others differ."""

from __future__ import annotations

import contextlib
import copy
import io
from random import Random
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SIZE = (40, 50)


def clean_file(seed: int = 0) -> dict[str, Any]:
    """Two images, two categories, polygons, RLEs and a crowd, as pycocotools wants them."""
    rng, annotations = Random(seed), []
    for number in range(1, 9):
        left, top = rng.randint(0, 25), rng.randint(0, 20)
        width, height = rng.randint(5, 20), rng.randint(5, 18)
        corners = [left, top, left + width, top, left + width, top + height, left, top + height]
        pixels = np.zeros(SIZE, np.uint8, order="F")
        pixels[top : top + height, left : left + width] = 1
        rle = coco_mask.encode(pixels)
        rle["counts"] = rle["counts"].decode()
        annotations.append(
            {
                "id": number,
                "image_id": 1 + number % 2,
                "category_id": 5 if number < 4 else 8,
                "bbox": [left, top, width, height],
                "area": width * height,
                "iscrowd": int(number == 4),
                "segmentation": [corners] if number % 3 else rle,
            }
        )
    images = [
        {"id": i, "file_name": f"{i}.png", "height": SIZE[0], "width": SIZE[1]} for i in (1, 2)
    ]
    categories = [{"id": 5, "name": "disc"}, {"id": 8, "name": "bar"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def detections_of(content: dict[str, Any], seed: int = 0) -> list[dict[str, Any]]:
    """Results of a detector that finds each object nearly, and something else."""
    rng, results = Random(seed), []
    for entry in content["annotations"]:
        box = [max(v + rng.randint(-2, 2), 1) for v in entry["bbox"]]
        pixels = np.zeros(SIZE, np.uint8, order="F")
        pixels[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = 1
        rle = coco_mask.encode(pixels)
        results.append(
            {
                "image_id": entry["image_id"],
                "category_id": entry["category_id"] if rng.random() < 0.9 else 5,
                "bbox": [float(v) for v in box],
                "score": rng.random(),
                "segmentation": rle | {"counts": rle["counts"].decode()},
            }
        )
    return results


def pycocotools_ap(content: dict[str, Any], results: list[dict[str, Any]], task: str) -> list[Any]:
    """AP, AP50, AP75, APs, APm and APl in percent by pycocotools alone; None for no object."""
    coco, results = COCO(), copy.deepcopy(results)
    coco.dataset = copy.deepcopy(content)
    for entry in results if task == "segm" else ():
        del entry["bbox"]
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(results), task)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return [100 * float(value) if value >= 0 else None for value in evaluator.stats[:6]]


def _each(part: str, change):
    def apply(content: dict[str, Any], rng: Random) -> None:
        for entry in content[part]:
            if rng.random() < 0.7:
                change(entry)

    return apply


def _all(part: str, change):
    def apply(content: dict[str, Any], rng: Random) -> None:
        for entry in content[part]:
            change(entry)

    return apply


def _reshape(entry: dict[str, Any], reshape) -> None:
    if isinstance(entry["segmentation"], list) and isinstance(entry["segmentation"][0], list):
        entry["segmentation"] = reshape(entry["segmentation"])


def _ids_as_text(content: dict[str, Any], rng: Random) -> None:
    for entry in content["images"]:
        entry["id"] = f"{entry['id']:07d}"
    for entry in content["annotations"]:
        entry["image_id"] = str(entry["image_id"])


def _is_compressed(entry: dict[str, Any]) -> bool:
    counts = isinstance(entry["segmentation"], dict) and entry["segmentation"]["counts"]
    return isinstance(counts, str) and not counts.startswith("b'")


def _runs(entry: dict[str, Any]) -> None:
    if _is_compressed(entry):
        pixels = coco_mask.decode(entry["segmentation"]).T.flatten()
        ends = np.flatnonzero(np.diff(np.concatenate(([0], pixels, [2]))))
        entry["segmentation"]["counts"] = np.diff(np.concatenate(([0], ends))).tolist()


def _bytes_as_text(entry: dict[str, Any]) -> None:
    if _is_compressed(entry):
        entry["segmentation"]["counts"] = str(entry["segmentation"]["counts"].encode())


def _flags(content: dict[str, Any], rng: Random) -> None:
    for entry in content["annotations"]:
        crowd = entry.get("iscrowd", 0)
        entry["iscrowd"] = rng.choice([bool(crowd), str(int(crowd)), float(crowd)])


def _ignored(content: dict[str, Any], rng: Random) -> None:
    for entry in content["annotations"]:
        entry |= {"ignore": int(entry["iscrowd"]), "iscrowd": 0}


MESSES = {  # that have one meaning
    "no iscrowd": lambda content, rng: [
        entry.pop("iscrowd") for entry in content["annotations"] if not entry["iscrowd"]
    ],
    "no area": _each("annotations", lambda entry: entry.pop("area")),
    "null area": _each("annotations", lambda entry: entry.update(area=None)),
    "ids from 0": _all("annotations", lambda entry: entry.update(id=entry["id"] - 1)),
    "no ids": _each("annotations", lambda entry: entry.pop("id")),
    "one id": _all("annotations", lambda entry: entry.update(id=3)),
    "ids of letters": _each("annotations", lambda entry: entry.update(id=f"a{entry['id']}")),
    "image ids as text": _ids_as_text,
    "category ids as floats": _all("categories", lambda entry: entry.update(id=float(entry["id"]))),
    "flags": _flags,
    "ignore instead of iscrowd": _ignored,
    "sizes as text": _each("images", lambda entry: entry.update(height=str(entry["height"]))),
    "boxes as text": _each(
        "annotations", lambda entry: entry.update(bbox=[str(v) for v in entry["bbox"]])
    ),
    "no box": _each("annotations", lambda entry: entry.pop("bbox")),
    "empty box": _each("annotations", lambda entry: entry.update(bbox=[])),
    "a flat polygon": _each("annotations", lambda entry: _reshape(entry, lambda s: s[0])),
    "points": _each(
        "annotations",
        lambda entry: _reshape(entry, lambda s: [[s[0][i : i + 2] for i in range(0, 8, 2)]]),
    ),
    "a short polygon more": _each(
        "annotations", lambda entry: _reshape(entry, lambda s: [*s, [1, 2, 3, 4], [], [1] * 7])
    ),
    "a closed polygon": _each(
        "annotations", lambda entry: _reshape(entry, lambda s: [[*s[0], *s[0][:2]]])
    ),
    "an RLE of runs": _each("annotations", _runs),
    "an RLE of bytes as text": _each("annotations", _bytes_as_text),
    "backslashes": _all("images", lambda entry: entry.update(file_name=f".\\{entry['file_name']}")),
    "a root": lambda content, rng: (
        [entry.update(supercategory="things") for entry in content["categories"]],
        content["categories"].insert(0, {"id": 0, "name": "things", "supercategory": "none"}),
    ),
    "a twin": lambda content, rng: content["categories"].append({"id": 70, "name": "disc"}),
    "an image twice": lambda content, rng: content["images"].append(dict(content["images"][0])),
}
_ONE = 6  # the annotation that is at fault
FAULTS = {
    "a box outside": {"bbox": [100, 100, 5, 5]},
    "a width below 0": {"bbox": [10, 10, -5, 5]},
    "three numbers": {"bbox": [10, 10, 5]},
    "not a number": {"bbox": [10, 10, float("nan"), 5]},
    "infinite": {"area": float("inf")},
    "no such image": {"image_id": 77},
    "no such category": {"category_id": 77},
    "an RLE of another image": {"segmentation": {"size": [4, 4], "counts": [0, 16]}},
    "a polygon far away": {"segmentation": [[0, 0, 1e6, 0, 1e6, 9]]},
    "a crowd of three": {"iscrowd": 3},
}


def with_fault(content: dict[str, Any], name: str) -> int:
    """Spoil one annotation, and return its id."""
    content["annotations"][_ONE - 1] |= FAULTS[name]
    return _ONE
