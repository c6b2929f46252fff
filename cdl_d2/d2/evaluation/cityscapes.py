"""Detectron2's Cityscapes evaluator, with the public cityscapesscripts package."""

from __future__ import annotations

import importlib
import sys
import types

from detectron2.evaluation import CityscapesSemSegEvaluator

from cdl_d2.errors import imports_of_extra

# Where the Detectron2 that this project is tested with looks for cityscapesscripts: a name that
# exists inside one company only.
PRIVATE = "deeplearning.projects.cityscapesApi"
PARTS = (
    "",
    ".helpers",
    ".helpers.labels",
    ".evaluation",
    ".evaluation.evalPixelLevelSemanticLabeling",
)


def build_cityscapes_evaluator(dataset_name: str) -> CityscapesSemSegEvaluator:
    """The evaluator of a data set in Cityscapes' layout.

    Raises:
        MissingPackageError: if cityscapesscripts is not installed.
    """
    with imports_of_extra("cityscapes"):
        modules = {part: importlib.import_module(f"cityscapesscripts{part}") for part in PARTS}
    names = PRIVATE.split(".")
    for count in range(1, len(names) + 1):
        name = ".".join(names[:count])
        sys.modules.setdefault(name, types.ModuleType(name))
    for part, module in modules.items():
        sys.modules.setdefault(f"{PRIVATE}.cityscapesscripts{part}", module)
    return CityscapesSemSegEvaluator(dataset_name)
