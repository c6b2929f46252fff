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
from cdl_d2.data.datasets.coco import read_coco
from cdl_d2.data.datasets.coco_precision import average_precision, index_coco
from cdl_d2.data.datasets.sources import stem_of
from cdl_d2.errors import CdlError
from cdl_d2.prediction.results import Detections
from cdl_d2.prediction.tasks.task import (
    Entry,
    Results,
    Save,
    Task,
    Truth,
    ordered,
    unambiguous,
)


class CocoTruth(Truth):
    """Annotations in COCO's format, see read_coco; a file name in them may be in a folder that the
    source is not in."""

    def __init__(self, path: Path, class_names: Sequence[str]):
        super().__init__(path, class_names)
        self._content = read_coco(path)
        ids = {each["name"]: each["id"] for each in self._content["categories"]}
        theirs = ordered(class_names_of(self._content), class_names, path)
        self.category_ids = [ids[name] for name in theirs]
        self._ids: dict[str, int] = {}
        for image in self._content["images"]:
            stem = stem_of(image["file_name"])
            if stem in self._ids:
                raise CdlError(f"{path} has two images of the name {stem}: rename one")
            self._ids[stem] = image["id"]
        self._short_ids = unambiguous((PurePosixPath(k).name, v) for k, v in self._ids.items())

    def image_id(self, name: str) -> int | None:
        """See Truth."""
        stem = stem_of(name)
        return self._ids.get(stem, self._short_ids.get(PurePosixPath(stem).name))

    def knows(self, name: str) -> bool:
        """See Truth."""
        return self.image_id(name) is not None

    def results(
        self, entries: Sequence[Entry], names: Sequence[str], folder: Path = Path()
    ) -> Results:
        """`bbox` and, of a detector with masks, `segm`. What was seen at another size, as
        bitstreams of resized images are, is resized; a source without a prediction counts as one
        without objects. Raises as Truth says."""
        self.check_some(names)
        annotated = {i["id"]: (i["height"], i["width"]) for i in self._content["images"]}
        found = []
        for entry in entries:
            if self.knows(entry["file_name"]):
                image_id = self.image_id(entry["file_name"])
                seen, size = (entry["height"], entry["width"]), annotated[image_id]
                _check_shape(image_id, seen, size)
                objects = coco_results([entry | {"id": image_id}], self.category_ids)
                found += [_resized(each, seen, size) for each in objects]
        masks = all(each.get("segmentation") for each in self._content["annotations"])
        masks &= any("segmentation" in each for each in found)
        coco, ids = index_coco(self._content), {self.image_id(name) for name in names} - {None}
        kinds = ("bbox", "segm") if masks else ("bbox",)
        return {kind: average_precision(coco, found, kind, ids) for kind in kinds}


class DetectionTask(Task):
    """Of detectors of either engine; see Task."""

    name, answers, truth = "detection", "predictions.json", CocoTruth

    def prediction(self, output: Mapping[str, Any], **common: Any) -> Detections:
        """From Detectron2's `instances`; or from torchvision's `boxes`, `labels`, which begin with
        the background, `scores` and perhaps `masks`."""
        if "instances" in output:
            found = output["instances"].to("cpu")
            masks = found.pred_masks if found.has("pred_masks") else None
            boxes, labels, scores = found.pred_boxes.tensor, found.pred_classes, found.scores
        else:
            boxes, labels = output["boxes"].cpu(), output["labels"].cpu() - 1
            scores, masks = output["scores"].cpu(), output.get("masks")
            masks = None if masks is None else masks[:, 0].cpu() > 0.5
        order = scores.argsort(descending=True, stable=True)
        return Detections(
            boxes=boxes[order],
            labels=labels[order],
            scores=scores[order],
            masks=None if masks is None else masks[order],
            **common,
        )

    def entry(self, found: Detections, save: Save) -> Entry:
        """`objects`, entries of a COCO results file, of image 0 and categories 1, 2, ..."""
        return {"objects": found.to_coco()}

    def text(self, entries: Sequence[Entry], categories: Sequence[Entry]) -> str:
        """A COCO results file."""
        return json.dumps(coco_results(entries, [each["id"] for each in categories]))


def coco_results(entries: Sequence[Entry], category_ids: Sequence[int]) -> list[Entry]:
    """Entries of a COCO results file, from an archive's, each with `id` and `objects`."""
    return [
        found | {"image_id": entry["id"], "category_id": category_ids[found["category_id"] - 1]}
        for entry in entries
        for found in entry["objects"]
    ]


def _check_shape(image_id: int, seen: tuple[int, int], size: tuple[int, int]) -> None:
    """Raise CdlError unless an image of (H, W) pixels can have been resized to what was seen."""
    if abs(seen[0] * size[1] - seen[1] * size[0]) > size[0] + size[1]:
        raise CdlError(
            f"image {image_id} was seen at {seen} pixels, (height, width), and is annotated at "
            f"{size}, which is of another shape: is it the same image, and upright?"
        )


def _resized(entry: Entry, seen: tuple[int, int], size: tuple[int, int]) -> Entry:
    """An entry of a COCO results file for an image of another size, (H, W)."""
    if seen == size:
        return entry
    vertical, horizontal = (new / old for new, old in zip(size, seen, strict=True))
    left, top, width, height = entry["bbox"]
    box = [left * horizontal, top * vertical, width * horizontal, height * vertical]
    entry = entry | {"bbox": box}
    if "segmentation" in entry:
        mask = Image.fromarray(coco_mask.decode(entry["segmentation"]))
        resized = np.asarray(mask.resize(size[::-1], Image.Resampling.NEAREST))
        entry["segmentation"] = coco_mask.encode(np.asfortranarray(resized))
    return entry
