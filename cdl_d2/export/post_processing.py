"""What turns the outputs of a detector's graphs into boxes, for its card: plain values.

All boxes are left, top, right, bottom in pixels of what the network sees, before padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

Weights = Sequence[float]


@dataclass(frozen=True)
class Decoding:
    """From scores and deltas to the boxes that are kept, in this order.

    Those of an R-CNN are clipped to the image as soon as they are decoded.

    Attributes:
        scores: of what is decoded.
        candidates: the best that are decoded, of each level of a pyramid; None for all.
        weights: x, y, width and height, by which the deltas of a graph are divided, by its name;
            empty where deltas are distances to left, top, right and bottom, in strides.
        scale_clamp: the most that deltas of width and height may be, after the division; None where
            there are none.
        smallest_side: in pixels; smaller ones are left out.
        score_threshold: only what is above it is kept.
        nms_threshold: IoU above which the weaker of two of a class, or of a level of proposals, is
            left out.
        kept: how many of an image.
    """

    scores: str
    candidates: int | None
    weights: Mapping[str, Weights]
    scale_clamp: float | None
    smallest_side: float
    score_threshold: float
    nms_threshold: float
    kept: int


@dataclass(frozen=True)
class Pooling:
    """How features of a region are pooled.

    Attributes:
        levels: of the pyramid; a region of size s = sqrt(area) pixels has that with the stride of
            `canonical_level`, 2 ** canonical_level pixels, shifted by floor(log2(s /
            canonical_size)) levels, or the nearest that there is.
        kind: ROIAlign, or another layer.
        sampling_ratio: samples a side of an output cell; 0 or less for as many as it has cells.
        aligned: whether regions are shifted by half a cell.
    """

    levels: Sequence[str]
    kind: str
    sampling_ratio: int | None
    aligned: bool | None
    canonical_size: float
    canonical_level: int


def post_processing(
    levels: Sequence[str],
    anchors: Sequence[torch.Tensor],
    offset: float,
    detections: Decoding,
    proposals: Decoding | None = None,
    pooling: Mapping[str, Pooling] | None = None,
) -> dict[str, Any]:
    """The part of a card that says how boxes are found.

    Args:
        levels: of the pyramid on which there are anchors.
        anchors: of the first cell of each level, A x 4; those of the next are a stride away, in the
            order of rows, columns, anchors.
        offset: of the first cell's anchors, in strides, to be added.
        detections, proposals: the last step, and that of a region proposal network.
        pooling: of regions, by the graph that reads them.
    """
    boxes = {level: each.tolist() for level, each in zip(levels, anchors, strict=True)}
    known = {"anchors": boxes, "anchor_offset": offset}
    if proposals is not None:
        known["proposals"] = asdict(proposals)
    if pooling is not None:
        known["pooling"] = {name: asdict(each) for name, each in pooling.items()}
    return {"post_processing": known | {"detections": asdict(detections)}}
