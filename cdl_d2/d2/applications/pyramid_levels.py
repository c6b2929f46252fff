"""Config of a detector without the finest levels of its pyramid, which cost the most."""

from __future__ import annotations

import re
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from detectron2.config import CfgNode

from cdl_d2.errors import CdlError
from cdl_d2.nn.bridge.bridge import STAGE_STRIDES

# Keys of features by level: of stages (res2 has stride 4) and of the pyramid (p2).
FEATURES = (
    "MODEL.RESNETS.OUT_FEATURES",
    "MODEL.TIMM.OUT_FEATURES",
    "MODEL.FPN.IN_FEATURES",
    "MODEL.ROI_HEADS.IN_FEATURES",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES",
)
ANCHORED = ("MODEL.RPN.IN_FEATURES", "MODEL.RETINANET.IN_FEATURES")  # one has the anchors
ANCHORS = ("MODEL.ANCHOR_GENERATOR.SIZES", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS")
LEVEL = re.compile(r"(?:res|p)(\d+)")


def level_of_entry(entry: str) -> int:
    """Return the finest level that a network behind an entry has, such as 3 behind `res3`."""
    return STAGE_STRIDES.get(entry, 4).bit_length() - 1


def without_finer_levels(cfg: CfgNode, level: int) -> dict[str, Any]:
    """Return the changes of a config that leave out the features, and anchors, of finer levels.

    Args:
        cfg: config of an RGB model.
        level: finest level, log2 of its stride in pixels.

    Raises:
        CdlError: if a part reads nothing then.
    """
    changes: dict[str, Any] = {}
    for key in (*FEATURES, *ANCHORED):
        names = list(attrgetter(key)(cfg))
        kept = [name for name in names if _level(name, level) >= level]
        if len(kept) == len(names):
            continue
        if not kept:
            raise CdlError(f"{key} {names} has nothing from level {level} on")
        changes[key] = kept
        if key == _anchored_key(cfg):
            changes |= _without_anchors(cfg, names, kept)
    return changes


def _anchored_key(cfg: CfgNode) -> str:
    return ANCHORED["Retina" in cfg.MODEL.META_ARCHITECTURE]


def _without_anchors(cfg: CfgNode, names: Sequence[str], kept: Sequence[str]) -> dict[str, Any]:
    """Return the changes of anchors that are listed for each feature."""
    changes = {}
    for key in ANCHORS:
        values = attrgetter(key)(cfg)
        if len(values) == len(names) > 1:
            pairs = zip(names, values, strict=True)
            changes[key] = [list(value) for name, value in pairs if name in kept]
    return changes


def _level(name: str, default: int) -> int:
    match = LEVEL.fullmatch(name)
    return int(match[1]) if match else default
