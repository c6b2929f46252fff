"""Detectron2's own model zoo: its configs, and the addresses of its weights.

`detectron2.model_zoo` imports `pkg_resources`, which current setuptools do not have, only to find
the folder of its configs. All code of this package imports that module from here.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import detectron2

DETECTRON2 = Path(detectron2.__file__).parent
DETECTRON2_ZOO = DETECTRON2 / "model_zoo" / "configs"


def import_model_zoo() -> ModuleType:
    """Import `detectron2.model_zoo`, with or without `pkg_resources`."""
    stand_in = ModuleType("pkg_resources")
    stand_in.resource_filename = _resource_filename
    before = sys.modules.get("pkg_resources", stand_in)
    sys.modules["pkg_resources"] = stand_in
    try:
        return importlib.import_module("detectron2.model_zoo")
    finally:
        if before is stand_in:
            del sys.modules["pkg_resources"]
        else:
            sys.modules["pkg_resources"] = before


def zoo_config(name: str) -> Any:
    """Return a config of the zoo, for example `common/optim.py`.

    Raises:
        RuntimeError: if there is none of that name.
    """
    return import_model_zoo().get_config(name)


def zoo_weights(file: Path) -> str:
    """Return the address of the zoo's weights for one of its config files; empty if it has none."""
    file, zoo = file.resolve(), DETECTRON2_ZOO.resolve()
    if not file.is_relative_to(zoo):
        return ""
    try:
        return import_model_zoo().get_checkpoint_url(file.relative_to(zoo).as_posix())
    except RuntimeError:  # a config without weights
        return ""


def _resource_filename(package: str, name: str) -> str:
    """Return the path of a package's file, as pkg_resources does."""
    return str(Path(importlib.import_module(package).__file__).parent / name)
