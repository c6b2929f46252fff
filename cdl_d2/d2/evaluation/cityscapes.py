"""The public cityscapesscripts package, where Detectron2's Cityscapes evaluators look for it."""

from __future__ import annotations

import importlib
import sys
import types

from cdl_d2.errors import imports_of_extra

# Where the Detectron2 that this project is tested with looks for cityscapesscripts: a name that
# exists inside one company only.
PRIVATE = "deeplearning.projects.cityscapesApi"
PARTS = (
    "",
    ".helpers",
    ".helpers.labels",
    ".evaluation",
    ".evaluation.evalInstanceLevelSemanticLabeling",
    ".evaluation.evalPixelLevelSemanticLabeling",
)


def provide_cityscapesscripts() -> None:
    """Make it known under the name that the evaluators import.

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
