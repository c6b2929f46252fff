"""A trained model as the model zoo keeps it: a config of the package, what differs from it, and
weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from cdl_d2.d2.config import STARTS
from cdl_d2.d2.engine.trained import build_trained

# What makes a model, and what it is shown in evaluation ...
KEPT = (
    "MODEL",
    *("INPUT.DOMAIN", "INPUT.FORMAT", "INPUT.IMAGE_SIZE"),
    *("INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST", "TEST.DETECTIONS_PER_IMAGE"),
)
# ... without what only says where a training starts, what teaches it, and where it runs.
LEFT_OUT = (
    *("MODEL.WEIGHTS", "MODEL.DEVICE", "MODEL.TEACHER", "MODEL.TRANSFER"),
    *(*STARTS, "MODEL.BRIDGE.FIT_IMAGES", "MODEL.CLASS_NAMES"),
)


def build_zoo_model(cfg: CfgNode, trained: bool) -> nn.Module:
    """The model of a config; if it is trained, with MODEL.WEIGHTS and in eval mode.

    Raises:
        FileNotFoundError, CdlError: see build_trained.
    """
    return build_trained(cfg, Path(cfg.MODEL.WEIGHTS)) if trained else build_model(cfg)


def overrides_between(base: CfgNode, trained: CfgNode) -> list[Any]:
    """KEY, VALUE, ... that make of one config the model, and the evaluation, of another."""
    before, pairs = dict(_items(base)), []
    for key, value in _items(trained):
        wanted = _is_within(key, KEPT) and not _is_within(key, LEFT_OUT)
        if wanted and value != before.get(key):
            pairs += [key, value]
    return pairs


def _items(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Full keys and plain values, with lists for tuples."""
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from _items(value, f"{prefix}{key}.")
        else:
            yield prefix + key, _plain(value)


def _plain(value: Any) -> Any:
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def _is_within(key: str, keys: tuple[str, ...]) -> bool:
    return any(key == each or key.startswith(f"{each}.") for each in keys)
