"""Detection of LazyConfigs where a YAML config is expected."""

from __future__ import annotations

from pathlib import Path

from yaml import MappingNode

from cdl_d2.errors import CdlError
from cdl_d2.yaml_text import compose_yaml

MODEL = "model"  # a key of every LazyConfig; those of YAML configs are in capital letters


def reject_lazy_config(path: Path) -> None:
    """Raise CdlError for a LazyConfig: a Python file, or the `config.yaml` of its training."""
    if path.suffix != ".py" and MODEL not in _keys(path):
        return
    raise CdlError(
        f"{path} is a LazyConfig, and a YAML config is expected: train it with "
        "`cdl run-script lazyconfig_train_net.py`, convert or run its model in Python "
        "(docs/tutorials/detectron2.md, LazyConfigs)"
    )


def _keys(path: Path) -> set[str]:
    """Read the outermost keys of a YAML file; none if it cannot be read."""
    try:
        node = compose_yaml(path.read_bytes())
    except CdlError:
        return set()
    return {key.value for key, _ in node.value} if isinstance(node, MappingNode) else set()
