"""Import of cityscapesscripts by Detectron2's evaluators of Cityscapes."""

from __future__ import annotations

import importlib
import sys
import types

from cdl_d2.errors import imports_of_extra

# Detectron2's main branch imports cityscapesscripts by a name that exists inside Meta only.
INTERNAL = "deeplearning.projects.cityscapesApi"
MODULES = (
    "cityscapesscripts",
    "cityscapesscripts.helpers",
    "cityscapesscripts.helpers.labels",
    "cityscapesscripts.evaluation",
    "cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling",
    "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling",
)


def alias_cityscapesscripts() -> None:
    """Make cityscapesscripts importable under Detectron2's name for it, unless that exists.

    Raises:
        MissingPackageError: if cityscapesscripts is not installed.
    """
    with imports_of_extra("cityscapes"):
        modules = {name: importlib.import_module(name) for name in MODULES}
    try:
        importlib.import_module(f"{INTERNAL}.cityscapesscripts")
    except ImportError:
        parts = INTERNAL.split(".")
        for count in range(1, len(parts) + 1):
            name = ".".join(parts[:count])
            sys.modules.setdefault(name, types.ModuleType(name))
        sys.modules.update({f"{INTERNAL}.{name}": module for name, module in modules.items()})
