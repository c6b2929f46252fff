"""YAML of LazyConfigs, for Detectron2 and for `lazy_text`."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from types import FunctionType
from typing import Any

import yaml
from detectron2.layers import get_norm
from detectron2.utils.registry import _convert_target_to_string
from omegaconf import DictConfig, ListConfig, OmegaConf, SCMode
from torch import nn

from cdl_d2.d2.lazy_text import TARGET, parse_lazy_config
from cdl_d2.errors import CdlError

NORMS = ("BN", "SyncBN", "FrozenBN", "GN", "naiveSyncBN", "naiveSyncBN_N", "LN")
EXAMPLE_CHANNELS = 32


def to_yaml(config: DictConfig, file: Path) -> str:
    """Return the text of a LazyConfig whose model parse_lazy_config reads.

    Other values that YAML cannot hold are left out with a warning.

    Args:
        config: mapping with `model`; interpolations stay as they are.
        file: file of the config, for messages.

    Raises:
        CdlError: if the model has values that YAML cannot hold, or may not be built from YAML.
    """
    kept = {"model": config.model}
    try:
        parse_lazy_config(_dump(kept))
    except CdlError as error:
        raise CdlError(f"{file}: its model cannot be saved as YAML: {error}") from error
    for key in sorted(key for key in config if key != "model"):
        try:
            yaml.unsafe_load(_dump({key: config[key]}))  # as Detectron2 does
        except Exception as error:  # whatever the named objects raise
            reason = " ".join(str(error).split())[:100]
            logging.getLogger(__name__).warning(f"{file}: {key} is not saved ({reason})")
            continue
        kept[key] = config[key]
    return _dump(kept)


def _dump(values: dict[str, Any]) -> str:
    config = OmegaConf.create(copy.deepcopy(values), flags={"allow_objects": True})
    _name_functions(config)
    content = OmegaConf.to_container(
        config, resolve=False, structured_config_mode=SCMode.INSTANTIATE
    )
    return yaml.dump(content, default_flow_style=None, allow_unicode=True, width=9999)


def _name_functions(node: DictConfig | ListConfig) -> None:
    """Replace targets by their names, and functions without a name that make a known norm."""
    keys = list(node) if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        if OmegaConf.is_interpolation(node, key) or OmegaConf.is_missing(node, key):
            continue
        value = node[key]
        if isinstance(value, (DictConfig, ListConfig)):
            _name_functions(value)
        elif key == TARGET and callable(value):
            node[key] = _convert_target_to_string(value)
        elif isinstance(value, FunctionType) and "<" in value.__qualname__:
            node[key] = _norm_name(value) or value


def _norm_name(build: FunctionType) -> str:
    """Return Detectron2's name of the norm that a function of the channels makes, or nothing."""
    try:
        norm = build(EXAMPLE_CHANNELS)
    except Exception:  # it is another function
        return ""
    matches = (name for name in NORMS if _equal(get_norm(name, EXAMPLE_CHANNELS), norm))
    return next(matches, "")


def _equal(norm: nn.Module, layer: Any) -> bool:
    """Return True for layers of one type with the same plain attributes."""
    if type(norm) is not type(layer):
        return False
    kinds = bool, float, int, str, tuple
    attributes, values = (
        {key: value for key, value in vars(module).items() if isinstance(value, kinds)}
        for module in (norm, layer)
    )
    return attributes == values
