"""Panoptic segments in COCO's format: a PNG for each image, and one JSON.

A segment's number is red + 256 green + 256^2 blue of its pixels. Annotations of things have no
numbers for stuff: its classes follow after theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cdl_d2.prediction.results import PanopticSegments
from cdl_d2.prediction.tasks.segmentation import as_png, label_map
from cdl_d2.prediction.tasks.task import Entry, Save


def panoptic_segments(output: Mapping[str, Any]) -> PanopticSegments | None:
    """Return the segments in the output of Detectron2's panoptic models; None of others.

    Args:
        output: with `sem_seg`, C x H x W scores, and perhaps `panoptic_seg`, H x W numbers and a
            list that describes them.
    """
    if "sem_seg" not in output:
        return None
    stuff = label_map(output["sem_seg"])
    if "panoptic_seg" not in output:
        return PanopticSegments(stuff=stuff)
    segments, described = output["panoptic_seg"]
    segments = segments.int().cpu()
    areas = dict(zip(*(v.tolist() for v in segments.unique(return_counts=True)), strict=True))
    kept = ("id", "isthing", "category_id")
    with_areas = (
        {key: each[key] for key in kept} | {"area": areas.get(each["id"], 0)} for each in described
    )
    return PanopticSegments(stuff=stuff, segments=segments, described=tuple(with_areas))


def panoptic_entry(found: PanopticSegments | None, save: Save) -> Entry:
    """Return what a part of an archive says of the segments of an image: `label_map`, a file with
    the class of stuff of every pixel; `segments`, a file with their numbers; `segments_info`."""
    if found is None:
        return {}
    entry: Entry = {"label_map": save("labels", as_png(found.stuff))}
    if found.segments is not None:
        numbers = found.segments.numpy()
        colours = np.stack([numbers >> shift & 255 for shift in (0, 8, 16)], axis=-1)
        entry["segments"] = save("panoptic", colours.astype(np.uint8))
        entry["segments_info"] = list(found.described)
    return entry


def panoptic_results(entries: Sequence[Entry], categories: Sequence[Entry]) -> dict[str, Any]:
    """Return the content of a file in COCO's panoptic format.

    Args:
        entries: of an archive, with `id`; those without `segments` are left out.
        categories: `id` and `name` of the things.
    """
    things = [category["id"] for category in categories]
    stuff: set[int] = set()
    annotations = []
    for entry in (entry for entry in entries if "segments" in entry):
        described = []
        for segment in entry["segments_info"]:
            label = segment["category_id"]
            if not segment["isthing"]:
                stuff.add(label)
            number = things[label] if segment["isthing"] else max(things) + label
            described.append({"id": segment["id"], "category_id": number, "area": segment["area"]})
        file_name = entry["segments"].removeprefix("panoptic/")
        annotation = {"image_id": entry["id"], "file_name": file_name}
        annotations.append(annotation | {"segments_info": described})
    named = [{**category, "isthing": 1} for category in categories]
    named += [
        {"id": max(things) + label, "name": f"stuff {label}", "isthing": 0}
        for label in sorted(stuff)
    ]
    return {"annotations": annotations, "categories": named}
