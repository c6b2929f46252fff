"""Building of what a config names, with errors that name the config's file and keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches

import detectron2.modeling as d2
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY
from detectron2.modeling.roi_heads.keypoint_head import ROI_KEYPOINT_HEAD_REGISTRY
from fvcore.common.registry import Registry
from torch import nn

from cdl_d2.d2.config import PROJECT_ADVICE, add_cdl_config, leaves
from cdl_d2.errors import CdlError

REGISTRIES: dict[str, Registry] = {  # by the key in MODEL that names a component
    "META_ARCHITECTURE": d2.META_ARCH_REGISTRY,
    "BACKBONE.NAME": d2.BACKBONE_REGISTRY,
    "BRIDGE.BACKBONE": d2.BACKBONE_REGISTRY,
    "PROPOSAL_GENERATOR.NAME": d2.PROPOSAL_GENERATOR_REGISTRY,
    "ANCHOR_GENERATOR.NAME": d2.ANCHOR_GENERATOR_REGISTRY,
    "RPN.HEAD_NAME": RPN_HEAD_REGISTRY,
    "ROI_HEADS.NAME": d2.ROI_HEADS_REGISTRY,
    "ROI_BOX_HEAD.NAME": d2.ROI_BOX_HEAD_REGISTRY,
    "ROI_MASK_HEAD.NAME": d2.ROI_MASK_HEAD_REGISTRY,
    "ROI_KEYPOINT_HEAD.NAME": ROI_KEYPOINT_HEAD_REGISTRY,
    "SEM_SEG_HEAD.NAME": d2.SEM_SEG_HEADS_REGISTRY,
}
MISFITS = (  # what Detectron2 and PyTorch raise for values that do not fit; not OSError
    *(ArithmeticError, AssertionError, AttributeError, LookupError),
    *(RuntimeError, TypeError, ValueError),
)


def build_model(cfg: CfgNode) -> nn.Module:
    """Build the model of MODEL.META_ARCHITECTURE on MODEL.DEVICE, with random weights.

    Raises:
        CdlError: if the config does not fit.
    """
    with naming_config(cfg):
        return d2.build_model(cfg)


@contextmanager
def naming_config(cfg: CfgNode) -> Iterator[None]:
    """Turn errors into a CdlError that names the config's file and the keys with the values."""
    try:
        yield
    except CdlError:
        raise
    except MISFITS as error:
        reason = " ".join(str(error.args[0] if error.args else "").split())[:200]
        file = vars(cfg).get("file")
        source = f"config {file}" if file else "config"
        raise CdlError(
            f"{source}: {type(error).__name__}: {reason}{_suggest_keys(cfg, reason)}"
        ) from error


def _suggest_keys(cfg: CfgNode, reason: str) -> str:
    """Name the changed keys whose values an error mentions, with similar registered names."""
    default = get_cfg()
    add_cdl_config(default)
    values, defaults = leaves(cfg), leaves(default)
    changed = {key: value for key, value in values.items() if value != defaults.get(key)}
    words = reason.replace("'", " ").replace('"', " ").replace(",", " ").split()
    texts = {key: value for key, value in changed.items() if isinstance(value, str) and value}
    candidates = changed if len(words) == 1 else texts  # a KeyError is only a value
    keys = [key for key, value in candidates.items() if str(value) in words]
    numbers = {key: value for key, value in changed.items() if isinstance(value, (int, float))}
    keys = keys or [key for key, value in numbers.items() if value < 0 <= (defaults.get(key) or 0)]
    hints = [f"{key} {values[key]!r}{_similar_names(key, values[key])}" for key in keys[:3]]
    return f": check {', '.join(hints)}" if hints else ""


def _similar_names(key: str, name: str) -> str:
    registry = REGISTRIES.get(key.removeprefix("MODEL."))
    if registry is None or name in registry:
        return ""
    names = get_close_matches(name, [registered for registered, _ in registry])
    near = f"did you mean {' or '.join(names)}? " if names else ""
    return f" ({near}{PROJECT_ADVICE})"
