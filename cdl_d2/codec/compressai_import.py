"""Import of CompressAI without the packages that its image codecs do not use.

CompressAI imports PyTorch Geometric for point clouds, which imports pandas, numba and transformers,
and scipy.stats for one constant: most of the time to load a codec.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress
from types import ModuleType

LAZY_PARTS = ("datasets", "transforms")  # of CompressAI
EMPTY_MODULES = (  # while CompressAI is imported; SciPy imports its parts when they are asked for
    *("torch_geometric", "torch_geometric.transforms", "scipy.stats"),
    *(f"compressai.{part}" for part in LAZY_PARTS),
)


def import_compressai() -> None:
    """Import CompressAI, unless the process has it or PyTorch Geometric.

    The omitted packages can be imported later as ever. Only `compressai.registry.TRANSFORMS` lacks
    the transforms of PyTorch Geometric; whoever needs them there imports CompressAI before a codec
    is loaded. A version of CompressAI that needs more of these packages is imported with them.
    """
    if "compressai" in sys.modules or "torch_geometric" in sys.modules:
        return
    empty = {name: ModuleType(name) for name in EMPTY_MODULES if name not in sys.modules}
    empty["torch_geometric"].transforms = empty["torch_geometric.transforms"]
    sys.modules.update(empty)
    package = None
    with suppress(ImportError, AttributeError):
        package = importlib.import_module("compressai")
    for name in empty:
        del sys.modules[name]
    if package is None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "compressai"]:
            del sys.modules[name]
        importlib.import_module("compressai")
        return
    from scipy.special import ndtri

    # The same function as that of scipy.stats.
    package.entropy_models.GaussianConditional._standardized_quantile = staticmethod(ndtri)
    for part in LAZY_PARTS:
        delattr(package, part)
    package.__getattr__ = _import_part


def _import_part(name: str) -> ModuleType:
    """Return a part of CompressAI when it is asked for (PEP 562)."""
    if name not in LAZY_PARTS:
        raise AttributeError(f"module 'compressai' has no attribute {name!r}")
    return importlib.import_module(f"compressai.{name}")
