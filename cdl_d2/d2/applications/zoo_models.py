"""Differences between the config of a trained model and the config that a model card names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from detectron2.config import CfgNode

from cdl_d2.d2.config import INITIALIZATION_KEYS

# Keys, and nodes, that influence neither a trained model nor its evaluation.
TRAINING_ONLY_KEYS = (
    *("VERSION", "OUTPUT_DIR", "SEED", "CUDNN_BENCHMARK", "VIS_PERIOD", "GLOBAL"),
    *("DATASETS", "DATALOADER", "SOLVER", "MODEL.DEVICE", "MODEL.CLASS_NAMES"),
    # initialization and supervision
    *(*INITIALIZATION_KEYS, "MODEL.WEIGHTS", "MODEL.BRIDGE.FIT_IMAGES"),
    *("MODEL.TEACHER", "MODEL.TRANSFER"),
    # training images, and the source of latents
    *("INPUT.MIN_SIZE_TRAIN", "INPUT.MIN_SIZE_TRAIN_SAMPLING", "INPUT.MAX_SIZE_TRAIN"),
    *("INPUT.RANDOM_FLIP", "INPUT.MASK_FORMAT", "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA"),
    *("INPUT.LATENT_SOURCE", "INPUT.LATENT_STORE_TRAIN", "INPUT.LATENT_STORE_TEST"),
    # evaluations during training
    *("TEST.EVAL_PERIOD", "TEST.EXPECTED_RESULTS", "TEST.PRECISE_BN"),
)


def overrides_between(base: CfgNode, trained: CfgNode) -> list[Any]:
    """Return KEY, VALUE, ... that turn a config into one with the model of another config."""
    base_values, pairs = dict(config_items(base)), []
    for key, value in config_items(trained):
        if not _is_within(key, TRAINING_ONLY_KEYS) and value != base_values.get(key):
            pairs += [key, value]
    return pairs


def config_items(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield full keys and plain values, with lists for tuples."""
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from config_items(value, f"{prefix}{key}.")
        else:
            yield prefix + key, _plain(value)


def _plain(value: Any) -> Any:
    return [_plain(element) for element in value] if isinstance(value, (list, tuple)) else value


def _is_within(key: str, nodes: tuple[str, ...]) -> bool:
    return any(key == node or key.startswith(f"{node}.") for node in nodes)
