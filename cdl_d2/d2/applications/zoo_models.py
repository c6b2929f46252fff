"""A trained model as the model zoo keeps it: a config of the package, what differs from it, and
weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from detectron2.config import CfgNode

from cdl_d2.d2.config import INITIALIZATION_KEYS

# Keys that decide neither a model nor its evaluation. All others are kept.
LEFT_OUT = (
    *("VERSION", "OUTPUT_DIR", "SEED", "CUDNN_BENCHMARK", "VIS_PERIOD", "GLOBAL"),
    *("DATASETS", "DATALOADER", "SOLVER", "MODEL.DEVICE", "MODEL.CLASS_NAMES"),
    # where a training starts, and what supervises it
    *(
        *INITIALIZATION_KEYS,
        "MODEL.WEIGHTS",
        "MODEL.BRIDGE.FIT_IMAGES",
        "MODEL.TEACHER",
        "MODEL.TRANSFER",
    ),
    # images of a training, and where latents are from
    *("INPUT.MIN_SIZE_TRAIN", "INPUT.MIN_SIZE_TRAIN_SAMPLING", "INPUT.MAX_SIZE_TRAIN"),
    *("INPUT.RANDOM_FLIP", "INPUT.MASK_FORMAT", "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA"),
    *("INPUT.LATENT_SOURCE", "INPUT.LATENT_STORE_TRAIN", "INPUT.LATENT_STORE_TEST"),
    # when a training is evaluated, and on what
    *("TEST.EVAL_PERIOD", "TEST.EXPECTED_RESULTS", "TEST.PRECISE_BN"),
)


def overrides_between(base: CfgNode, trained: CfgNode) -> list[Any]:
    """Return KEY, VALUE, ... that make of one config the model, and the evaluation, of another."""
    before, pairs = dict(config_items(base)), []
    for key, value in config_items(trained):
        if not _is_within(key, LEFT_OUT) and value != before.get(key):
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
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def _is_within(key: str, keys: tuple[str, ...]) -> bool:
    return any(key == each or key.startswith(f"{each}.") for each in keys)
