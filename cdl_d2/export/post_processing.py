"""Values that turn the outputs of a detector's graphs into boxes, for its card.

Boxes are left, top, right, bottom in pixels of the network's input, before padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

Weights = Sequence[float]


@dataclass(frozen=True)
class Decoding:
    """Values that select boxes by scores and deltas, in the order of use.

    Boxes of an R-CNN are clipped to the image right after decoding.

    Attributes:
        scores: name of the graph output with the scores.
        candidates: number of best boxes decoded per pyramid level; None for all.
        weights: divisors of the deltas of x, y, width and height, by graph; empty if deltas are
            distances to left, top, right and bottom, in strides.
        scale_clamp: limit of the deltas of width and height after the division; None if unused.
        smallest_side: smallest side of a box in pixels.
        score_threshold: scores must be above it.
        nms_threshold: IoU above which the weaker of two boxes of a class (or level) is removed.
        kept: largest number of boxes per image.
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
    """Values of the layer that pools features of a region.

    Attributes:
        levels: pyramid levels. A region of s = sqrt(area) pixels is pooled from the level of stride
            2 ** canonical_level, shifted by floor(log2(s / canonical_size)) levels, or the nearest.
        kind: ROIAlign, or another layer.
        sampling_ratio: samples per side of an output cell; 0 or less for one per input cell.
        aligned: True if regions are shifted by half a cell.
        canonical_size: in pixels.
        canonical_level: log2 of the stride of canonical_size.
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
    """Return the part of a card that describes how to compute boxes.

    Args:
        levels: pyramid levels with anchors.
        anchors: anchors of the first cell of each level, A x 4; the next cell's are a stride away,
            in the order of rows, columns, anchors.
        offset: offset of the first cell's anchors, in strides.
        detections: values of the last step.
        proposals: values of a region proposal network.
        pooling: values of the pooling layers, by the graph that reads their output.
    """
    boxes = {level: cell.tolist() for level, cell in zip(levels, anchors, strict=True)}
    values = {"anchors": boxes, "anchor_offset": offset}
    if proposals is not None:
        values["proposals"] = asdict(proposals)
    if pooling is not None:
        values["pooling"] = {name: asdict(layer) for name, layer in pooling.items()}
    return {"post_processing": values | {"detections": asdict(detections)}}
