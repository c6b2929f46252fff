"""Detection: boxes of objects in an image, perhaps with masks and keypoints."""

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
from cdl_d2.data.datasets.image_lists import image_key
from cdl_d2.errors import CdlError
from cdl_d2.metrics.coco_precision import (
    PERSON_KEYPOINTS,
    CocoIndex,
    average_precision,
)
from cdl_d2.metrics.coco_results import PIXEL_CENTRE, encode_mask
from cdl_d2.prediction.results import Detections
from cdl_d2.prediction.tasks.panoptic import panoptic_record, panoptic_results, panoptic_segments
from cdl_d2.prediction.tasks.task import (
    GroundTruth,
    Record,
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
        names = order_classes(_annotated_classes(self._content, class_names), class_names, path)
        self.category_ids = [ids[name] for name in names]
        self._ids: dict[str, int] = {}
        for image in self._content["images"]:
            stem = image_key(image["file_name"])
            if stem in self._ids:
                raise CdlError(f"{path} has two images of the name {stem}: rename one")
            self._ids[stem] = image["id"]
        self._sizes = {i["id"]: (i["height"], i["width"]) for i in self._content["images"]}
        self._short_ids = unique_values((PurePosixPath(k).name, v) for k, v in self._ids.items())

    def image_id(self, name: str) -> int | None:
        stem = image_key(name)
        return self._ids.get(stem, self._short_ids.get(PurePosixPath(stem).name))

    def size(self, name: str) -> tuple[int, int] | None:
        return self._sizes.get(self.image_id(name))

    def rescale(self, record: Record) -> Record:
        coded, size = (record["height"], record["width"]), self.size(record["file_name"])
        if size is None or coded == size or not same_aspect_ratio(coded, size):
            return record
        objects = [_resize(o, coded, size) for o in record["objects"]]
        return record | {"height": size[0], "width": size[1], "objects": objects}

    def has(self, name: str) -> bool:
        return self.image_id(name) is not None

    def count(self) -> int:
        return len(self._ids)

    def results(
        self, records: Sequence[Record], names: Sequence[str], folder: Path = Path()
    ) -> Results:
        """Return the average precision, in pixels of the annotations.

        `bbox` and, where predictions and annotations have them, `segm` and `keypoints`. A source
        without a prediction counts as one without detections.
        """
        self.require_any(names)
        objects = []
        for record in records:
            name = record["file_name"]
            if self.has(name):
                self.check_size(name, (record["height"], record["width"]))
                numbered = self.rescale(record) | {"id": self.image_id(name)}
                objects += coco_results([numbered], self.category_ids)
        coco, ids = CocoIndex(self._content), {self.image_id(name) for name in names} - {None}
        return {kind: average_precision(coco, objects, kind, ids) for kind in self._kinds(objects)}

    def _kinds(self, objects: Sequence[Record]) -> list[str]:
        """Return the kinds of average precision that annotations and predictions have."""
        kinds, persons = ["bbox"], {3 * PERSON_KEYPOINTS}
        if has_masks(self._content) and any("segmentation" in o for o in objects):
            kinds.append("segm")
        lengths = {len(a.get("keypoints") or ()) for a in self._content["annotations"]}
        if lengths <= persons == {len(o.get("keypoints", ())) for o in objects}:
            kinds.append("keypoints")
        return kinds


def _annotated_classes(content: Mapping[str, Any], class_names: Sequence[str]) -> list[str]:
    """Return the names of the categories, in the order of their ids.

    If they are more than the model's classes, those without objects that the model lacks are left
    out, such as the first category of an export from Roboflow, which names the data set.
    """
    annotated = class_names_of(content)
    if len(annotated) <= len(class_names):
        return annotated
    used = {annotation["category_id"] for annotation in content["annotations"]}
    empty = {category["name"] for category in content["categories"] if category["id"] not in used}
    return [name for name in annotated if name in class_names or name not in empty]


class DetectionTask(Task):
    """Task of detectors."""

    name, predictions_file, ground_truth = "detection", "predictions.json", CocoGroundTruth

    def prediction(self, output: Mapping[str, Any], **common: Any) -> Detections:
        """Sort FIELDS by score; read `sem_seg` and `panoptic_seg` of a panoptic model."""
        order = output["scores"].argsort(descending=True, stable=True)
        fields = {name: output[name][order] for name in FIELDS if name in output}
        panoptic = panoptic_segments(output) if "sem_seg" in output else None
        return Detections(**fields, panoptic=panoptic, **common)

    def to_record(self, prediction: Detections, save: Save) -> Record:
        """Return `objects`, records of a COCO results file, of image 0 and categories 1, 2, ...

        For a panoptic model add those of panoptic_record.
        """
        record = {"objects": prediction.to_coco()}
        if prediction.panoptic is not None:
            record |= panoptic_record(prediction.panoptic, save)
        return record

    def format_predictions(self, records: Sequence[Record], categories: Sequence[Record]) -> str:
        """Return a COCO results file."""
        return json.dumps(coco_results(records, [category["id"] for category in categories]))

    def format_files(
        self, records: Sequence[Record], categories: Sequence[Record]
    ) -> dict[str, str]:
        """Return predictions.json and, for a panoptic model, `panoptic.json` in COCO's format."""
        files = {self.predictions_file: self.format_predictions(records, categories)}
        if any("segments" in record for record in records):
            files["panoptic.json"] = json.dumps(panoptic_results(records, categories))
        return files


TASK = DetectionTask()


def coco_results(records: Sequence[Record], category_ids: Sequence[int]) -> list[Record]:
    """Return the records of a COCO results file from those of images, with `id` and `objects`."""
    return [
        o | {"image_id": record["id"], "category_id": category_ids[o["category_id"] - 1]}
        for record in records
        for o in record["objects"]
    ]


def _resize(record: Record, old_size: tuple[int, int], size: tuple[int, int]) -> Record:
    """Scale a record of a COCO results file from one image size, (H, W), to another."""
    vertical, horizontal = (new / old for new, old in zip(size, old_size, strict=True))
    left, top, width, height = record["bbox"]
    box = [left * horizontal, top * vertical, width * horizontal, height * vertical]
    record = record | {"bbox": box}
    if "keypoints" in record:
        points = np.array(record["keypoints"]).reshape(-1, 3)
        points[:, :2] = (points[:, :2] + PIXEL_CENTRE) * [horizontal, vertical] - PIXEL_CENTRE
        record["keypoints"] = points.flatten().tolist()
    if "segmentation" in record:
        mask = Image.fromarray(coco_mask.decode(record["segmentation"]))
        resized = np.asarray(mask.resize(size[::-1], Image.Resampling.NEAREST))
        record["segmentation"] = encode_mask(resized)
    return record
