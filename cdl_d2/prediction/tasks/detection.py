"""Objects in an image: boxes, and perhaps masks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from cdl_d2.data.datasets.coco import class_names as class_names_of
from cdl_d2.data.datasets.coco import has_masks, read_coco
from cdl_d2.data.datasets.sources import stem_of
from cdl_d2.errors import CdlError
from cdl_d2.metrics.coco_precision import (
    PERSON_KEYPOINTS,
    average_precision,
    index_coco,
)
from cdl_d2.metrics.coco_results import PIXEL_CENTRE, encode_mask
from cdl_d2.prediction.results import Detections
from cdl_d2.prediction.tasks.panoptic import panoptic_entry, panoptic_results, panoptic_segments
from cdl_d2.prediction.tasks.task import (
    Entry,
    GroundTruth,
    Results,
    Save,
    Task,
    order_classes,
    same_aspect_ratio,
    unique_values,
)

FIELDS = ("boxes", "labels", "scores", "masks", "keypoints")


class CocoGroundTruth(GroundTruth):
    """Annotations in COCO's format; the sources need not be in the folders that file names have."""

    def __init__(self, path: Path, class_names: Sequence[str]):
        super().__init__(path, class_names)
        self._content = read_coco(path)
        ids = {category["name"]: category["id"] for category in self._content["categories"]}
        names = order_classes(class_names_of(self._content), class_names, path)
        self.category_ids = [ids[name] for name in names]
        self._ids: dict[str, int] = {}
        for image in self._content["images"]:
            stem = stem_of(image["file_name"])
            if stem in self._ids:
                raise CdlError(f"{path} has two images of the name {stem}: rename one")
            self._ids[stem] = image["id"]
        self._sizes = {i["id"]: (i["height"], i["width"]) for i in self._content["images"]}
        self._short_ids = unique_values((PurePosixPath(k).name, v) for k, v in self._ids.items())

    def image_id(self, name: str) -> int | None:
        stem = stem_of(name)
        return self._ids.get(stem, self._short_ids.get(PurePosixPath(stem).name))

    def size(self, name: str) -> tuple[int, int] | None:
        return self._sizes.get(self.image_id(name))

    def rescale(self, entry: Entry) -> Entry:
        coded, size = (entry["height"], entry["width"]), self.size(entry["file_name"])
        if size is None or coded == size or not same_aspect_ratio(coded, size):
            return entry
        objects = [_resize(record, coded, size) for record in entry["objects"]]
        return entry | {"height": size[0], "width": size[1], "objects": objects}

    def has(self, name: str) -> bool:
        return self.image_id(name) is not None

    def results(
        self, entries: Sequence[Entry], names: Sequence[str], folder: Path = Path()
    ) -> Results:
        """Return the average precision, in pixels of the annotations.

        `bbox` and, where predictions and annotations have them, `segm` and `keypoints`. A source
        without a prediction counts as one without detections.
        """
        self.require_any(names)
        records = []
        for entry in entries:
            name = entry["file_name"]
            if self.has(name):
                self.check_size(name, (entry["height"], entry["width"]))
                numbered = self.rescale(entry) | {"id": self.image_id(name)}
                records += coco_results([numbered], self.category_ids)
        coco, ids = index_coco(self._content), {self.image_id(name) for name in names} - {None}
        return {kind: average_precision(coco, records, kind, ids) for kind in self._kinds(records)}

    def _kinds(self, records: Sequence[Entry]) -> list[str]:
        """Return the kinds of average precision that annotations and predictions have."""
        kinds, persons = ["bbox"], {3 * PERSON_KEYPOINTS}
        if has_masks(self._content) and any("segmentation" in record for record in records):
            kinds.append("segm")
        lengths = {len(a.get("keypoints") or ()) for a in self._content["annotations"]}
        if lengths <= persons == {len(record.get("keypoints", ())) for record in records}:
            kinds.append("keypoints")
        return kinds


class DetectionTask(Task):
    """Task of detectors."""

    name, answers, ground_truth = "detection", "predictions.json", CocoGroundTruth

    def prediction(self, output: Mapping[str, Any], **common: Any) -> Detections:
        """Sort FIELDS by score; add `sem_seg` and `panoptic_seg` of a panoptic model."""
        order = output["scores"].argsort(descending=True, stable=True)
        ordered_fields = {name: output[name][order] for name in FIELDS if name in output}
        return Detections(**ordered_fields, panoptic=panoptic_segments(output), **common)

    def entry(self, found: Detections, save: Save) -> Entry:
        """`objects`, entries of a COCO results file, of image 0 and categories 1, 2, ...; of a
        panoptic model also what panoptic_entry says."""
        return {"objects": found.to_coco()} | panoptic_entry(found.panoptic, save)

    def text(self, entries: Sequence[Entry], categories: Sequence[Entry]) -> str:
        """A COCO results file."""
        return json.dumps(coco_results(entries, [each["id"] for each in categories]))

    def more_texts(self, entries: Sequence[Entry], categories: Sequence[Entry]) -> dict[str, str]:
        """`panoptic.json` of a panoptic model, in COCO's format."""
        content = panoptic_results(entries, categories)
        return {"panoptic.json": json.dumps(content)} if content["annotations"] else {}


def coco_results(entries: Sequence[Entry], category_ids: Sequence[int]) -> list[Entry]:
    """Entries of a COCO results file, from an archive's, each with `id` and `objects`."""
    return [
        found | {"image_id": entry["id"], "category_id": category_ids[found["category_id"] - 1]}
        for entry in entries
        for found in entry["objects"]
    ]


def _resize(entry: Entry, old_size: tuple[int, int], size: tuple[int, int]) -> Entry:
    """Scale a record of a COCO results file from one image size, (H, W), to another."""
    vertical, horizontal = (new / old for new, old in zip(size, old_size, strict=True))
    left, top, width, height = entry["bbox"]
    box = [left * horizontal, top * vertical, width * horizontal, height * vertical]
    entry = entry | {"bbox": box}
    if "keypoints" in entry:
        points = np.array(entry["keypoints"]).reshape(-1, 3)
        points[:, :2] = (points[:, :2] + PIXEL_CENTRE) * [horizontal, vertical] - PIXEL_CENTRE
        entry["keypoints"] = points.flatten().tolist()
    if "segmentation" in entry:
        mask = Image.fromarray(coco_mask.decode(entry["segmentation"]))
        resized = np.asarray(mask.resize(size[::-1], Image.Resampling.NEAREST))
        entry["segmentation"] = encode_mask(resized)
    return entry
