"""Checks of data sets in other formats than COCO's, before training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode

from cdl_d2.data.datasets.coco_findings import Findings
from cdl_d2.errors import CdlError


def check_records(name: str) -> list[str]:
    """Check the boxes and polygons of a data set, and return its image files.

    Raises:
        CdlError: with all invalid objects: a box that is not four numbers, has a negative width or
            height, or is not on its image; a polygon of less than three points.
    """
    findings, records = Findings(f"data set {name}"), DatasetCatalog.get(name)
    for record in records:
        for index, entry in enumerate(record.get("annotations", ())):
            try:
                _check_box(entry, record)
                _check_polygons(entry.get("segmentation"))
            except CdlError as error:
                findings.fault(f"object {index} of {record['file_name']}", error)
    findings.close()
    return [record["file_name"] for record in records]


def _check_box(entry: dict[str, Any], record: dict[str, Any]) -> None:
    box, mode = entry.get("bbox"), entry.get("bbox_mode", BoxMode.XYXY_ABS)
    if mode not in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
        return  # rotated, or relative
    numbers = np.asarray(box)
    if numbers.shape != (4,) or numbers.dtype.kind not in "iuf" or not np.isfinite(numbers).all():
        raise CdlError(f"bbox {box!r:.100} is not four numbers")
    left, top, right, bottom = BoxMode.convert(numbers.tolist(), mode, BoxMode.XYXY_ABS)
    width, height = (record.get(side, np.inf) for side in ("width", "height"))
    if right < left or bottom < top:
        raise CdlError(f"bbox {box!r:.100} has a width or height below 0")
    if right > left and bottom > top and not (right > 0 < bottom and left < width and top < height):
        raise CdlError(f"bbox {box!r:.100} is not on its image of {width}x{height} pixels")


def _check_polygons(segmentation: object) -> None:
    for polygon in segmentation if isinstance(segmentation, Sequence) else ():
        if len(polygon) < 6 or len(polygon) % 2:
            raise CdlError(f"a polygon of {len(polygon)} numbers is not three points or more")
