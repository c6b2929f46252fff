"""Panoptic segments in COCO's format: a PNG for each image, and one JSON.

A segment's number is red + 256 green + 256^2 blue of its pixels. Annotations of things have no
numbers for stuff: its classes follow those of things.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cdl_d2.prediction.results import PanopticSegments
from cdl_d2.prediction.tasks.segmentation import as_png, label_map
from cdl_d2.prediction.tasks.task import Record, Save


def panoptic_segments(output: Mapping[str, Any]) -> PanopticSegments:
    """Return the segments in the output of Detectron2's panoptic models.

    Args:
        output: with `sem_seg`, C x H x W scores, and perhaps `panoptic_seg`, H x W numbers and a
            list that describes them.
    """
    stuff = label_map(output["sem_seg"])
    if "panoptic_seg" not in output:
        return PanopticSegments(stuff=stuff)
    segments, infos = output["panoptic_seg"]
    segments = segments.int().cpu()
    areas = dict(zip(*(v.tolist() for v in segments.unique(return_counts=True)), strict=True))
    infos = tuple(
        {key: info[key] for key in ("id", "isthing", "category_id")}
        | {"area": areas.get(info["id"], 0)}
        for info in infos
    )
    return PanopticSegments(stuff=stuff, segments=segments, infos=infos)


def panoptic_record(panoptic: PanopticSegments, save: Save) -> Record:
    """Return the segments of an image for a part of an archive.

    Returns:
        `label_map`, a file with the class of stuff of every pixel; and, where things and stuff are
        combined, `segments`, a file with the numbers of segments, and `segments_info`.
    """
    record: Record = {"label_map": save("labels", as_png(panoptic.stuff))}
    if panoptic.segments is not None:
        numbers = panoptic.segments.numpy()
        colors = np.stack([numbers >> shift & 255 for shift in (0, 8, 16)], axis=-1)
        record["segments"] = save("panoptic", colors.astype(np.uint8))
        record["segments_info"] = list(panoptic.infos)
    return record


def panoptic_results(records: Sequence[Record], categories: Sequence[Record]) -> dict[str, Any]:
    """Return the content of a file in COCO's panoptic format.

    Args:
        records: of an archive, with `id`; those without `segments` are left out.
        categories: `id` and `name` of the things.
    """
    things = [category["id"] for category in categories]
    stuff: set[int] = set()
    annotations = []
    for record in (record for record in records if "segments" in record):
        infos = []
        for segment in record["segments_info"]:
            label = segment["category_id"]
            if not segment["isthing"]:
                stuff.add(label)
            number = things[label] if segment["isthing"] else max(things) + label
            infos.append({"id": segment["id"], "category_id": number, "area": segment["area"]})
        file_name = record["segments"].removeprefix("panoptic/")
        annotation = {"image_id": record["id"], "file_name": file_name}
        annotations.append(annotation | {"segments_info": infos})
    classes = [{**category, "isthing": 1} for category in categories]
    classes += [
        {"id": max(things) + label, "name": f"stuff {label}", "isthing": 0}
        for label in sorted(stuff)
    ]
    return {"annotations": annotations, "categories": classes}
