"""Selection of the backend of a model: the one place that tells backends from each other."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name

from cdl_d2.backend import Backend
from cdl_d2.errors import CdlError, MissingPackageError
from cdl_d2.files import CONFIG_FILE
from cdl_d2.yaml_text import is_lazy_config


@dataclass(frozen=True)
class BackendEntry:
    """Properties of a backend that need no import.

    Attributes:
        adapter: its Backend, `module:class`.
        package: package that it needs.
        config_type: type of a card's `config`; None for a backend without cards.
        config: description of that value.
        tasks: tasks of its models; empty for all.
    """

    adapter: str
    package: str
    config_type: type | None = None
    config: str = ""
    tasks: tuple[str, ...] = ()


NETWORKS = ("torchvision/", "timm/")  # before the name of a network, a model of "pytorch"
TORCHVISION_ZOO = "coco"  # torchvision's Mask R-CNN R50-FPN with its weights
BACKENDS = {  # the preferred one first
    "detectron2": BackendEntry(
        "cdl_d2.d2.applications.backend:Detectron2Backend",
        "detectron2",
        str,
        "the name of a config of this package",
    ),
    "torchvision": BackendEntry(
        "cdl_d2.tv.backend:TorchvisionBackend",
        "torchvision",
        dict,
        "the values of a DetectorConfig",
        ("detection",),
    ),
    "lazyconfig": BackendEntry("cdl_d2.d2.applications.lazy_backend:LazyBackend", "detectron2"),
    "pytorch": BackendEntry(  # networks of torchvision or timm by name
        "cdl_d2.conversion.backend:PyTorchBackend",
        "torchvision",
        dict,
        "the values of a NetworkConfig",
        ("classification", "segmentation", "detection"),
    ),
}
CARD_BACKENDS = tuple(name for name, entry in BACKENDS.items() if entry.config_type)


def get_backend(name: str, model: str = "this") -> Backend:
    """Return a backend.

    Args:
        name: a key of BACKENDS.
        model: name of the model that needs it, for the error.

    Raises:
        CdlError: for an unknown name.
        MissingPackageError: if its package is not installed.
    """
    if name not in BACKENDS:
        raise CdlError(f"backend {name!r} is not one of {', '.join(BACKENDS)}")
    if not is_installed(name):
        package = BACKENDS[name].package
        raise MissingPackageError(f"{model} needs {package}: install it as the README says")
    return resolve_name(BACKENDS[name].adapter)()


def is_installed(name: str) -> bool:
    """Return whether the package of a backend is installed."""
    return find_spec(BACKENDS[name].package) is not None


def default_backend() -> str:
    """Return the name of the first backend that is installed."""
    return next(filter(is_installed, BACKENDS))


def checkpoint_backend(checkpoint: Path) -> str:
    """Return the name of a checkpoint's backend.

    A model of Detectron2 has its config beside it; others hold theirs. What cannot be read is
    rejected by the backend that loads it.
    """
    config_file = checkpoint.parent / CONFIG_FILE
    if config_file.is_file():
        return config_backend(config_file)
    from cdl_d2.codec.io.weights_file import read_weights
    from cdl_d2.conversion.network_model import is_network_checkpoint

    with suppress(CdlError, OSError):
        if is_network_checkpoint(read_weights(checkpoint)):
            return "pytorch"
    return "torchvision"


def config_backend(config_file: Path) -> str:
    """Return the name of the backend of a config of Detectron2."""
    return "lazyconfig" if is_lazy_config(config_file) else "detectron2"
