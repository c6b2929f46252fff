"""RGB networks of torchvision and timm by name, with what their libraries state of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import nn
from torchvision.models import get_model, get_model_builder, get_model_weights, list_models

from cdl_d2.codec.io.state_dicts import State, fit_names, get_weights, load_into
from cdl_d2.codec.io.weights_file import load_state_dict
from cdl_d2.conversion.preprocessing import Preprocessing
from cdl_d2.errors import CdlError
from cdl_d2.nn.backbones.rgb_model import (
    IMAGENET,
    IMAGENET_CLASSES,
    TIMM,
    build_timm_network,
    download_torchvision,
    imagenet_names,
)
from cdl_d2.packaged import installed_weights, timm_entry

TORCHVISION = "torchvision/"  # prefix of the names of torchvision's networks
CLASSIFICATION, SEGMENTATION, DETECTION = "classification", "segmentation", "detection"
OTHER_KINDS = ("quantization", "video", "optical_flow")  # of torchvision, that cannot be converted
BACKGROUND, UNUSED = "__background__", "N/A"  # names of a detector's outputs that are no class
# Pretrained with weights that expect these normalized images, and normalize them anew.
NORMALIZING = ("googlenet", "inception_v3")
# Layers of torchvision's DenseNets, in whose pretrained weights they are called norm.1 and conv.1.
DENSE_LAYER = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")


@dataclass(frozen=True, eq=False)
class NamedNetwork:
    """A network with trained weights.

    Attributes:
        name: `torchvision/NAME` or `timm/NAME`.
        network: in eval mode.
        task: `classification`, `segmentation` or `detection`.
        outputs: names of the network's outputs; of a detector with BACKGROUND and UNUSED.
        preprocessing: of images, as in the evaluation of its weights.
    """

    name: str
    network: nn.Module
    task: str
    outputs: tuple[str, ...]
    preprocessing: Preprocessing


def is_named_network(name: str) -> bool:
    """Return whether a name is that of a network, perhaps with a file of weights."""
    return name.startswith((TIMM, TORCHVISION))


def split_weights(name: str) -> tuple[str, str]:
    """Split NETWORK or NETWORK:WEIGHTS into the name and a file, which is empty without one."""
    network, _, file = name.partition(":")
    return network, file


def load_named_network(name: str, weights: str | Path = "") -> NamedNetwork:
    """Load a network of torchvision or timm by name.

    Args:
        name: `torchvision/NAME` of `torchvision.models.get_model`, or `timm/NAME`.
        weights: file of its weights, with any number of classes; empty for the library's pretrained
            ones, from an installed package, the library's cache or a download.

    Raises:
        CdlError: for an unknown network, one for another task, or weights that do not fit.
        FileNotFoundError: if there is no such file.
        MissingWeightsError: if the pretrained weights cannot be downloaded.
    """
    load = _load_timm if name.startswith(TIMM) else _load_torchvision
    return load(name, str(weights or installed_weights(name)))


def build_named_network(name: str, outputs: int | None = None) -> nn.Module:
    """Build a network with random weights, in eval mode; nothing is downloaded.

    Args:
        name: as of `load_named_network`.
        outputs: number of outputs; default that of the library's pretrained weights.

    Raises:
        CdlError: for an unknown network, or one for another task.
    """
    bare = name.removeprefix(TORCHVISION)
    if name.startswith(TIMM):
        network = build_timm_network(name.removeprefix(TIMM), outputs)
    else:
        options: dict[str, Any] = {"weights": None}
        options |= {} if outputs is None else {"num_classes": outputs}
        if torchvision_task(bare) != CLASSIFICATION:
            options["weights_backbone"] = None
        elif bare in NORMALIZING:
            options |= {"transform_input": True, "init_weights": False}
        network = get_model(bare, **options)
    return network.eval()


def torchvision_task(name: str) -> str:
    """Return the task of a network of torchvision.

    Raises:
        CdlError: for an unknown network, or one for another task.
    """
    try:
        module = get_model_builder(name).__module__
    except ValueError as error:
        similar = ", ".join(get_close_matches(name, list_models(), 5))
        raise CdlError(
            f"torchvision has no network {name!r}, only {similar or 'those of list_models()'}"
        ) from error
    kind = module.removeprefix("torchvision.models.").split(".")[0]
    if kind in OTHER_KINDS:
        raise CdlError(
            f"torchvision's {name} is one of {kind}: expected a network for classification, "
            "segmentation or detection"
        )
    return kind if kind in (SEGMENTATION, DETECTION) else CLASSIFICATION


def _load_timm(name: str, file: str) -> NamedNetwork:
    if file:
        network, _ = _load_file(name, file, None)
    else:
        network = build_timm_network(name.removeprefix(TIMM), None, IMAGENET).eval()
    if not network.num_classes:
        raise CdlError(f"{name} has no classification head: give weights with one, or another name")
    names = _number_names(CLASSIFICATION, network.num_classes)
    return NamedNetwork(name, network, CLASSIFICATION, names, Preprocessing.of_network(network))


def _load_torchvision(name: str, file: str) -> NamedNetwork:
    bare = name.removeprefix(TORCHVISION)
    task, entries = torchvision_task(bare), get_model_weights(bare)
    by_file = {Path(entry.url).name: entry for entry in entries}
    entry = by_file.get(Path(file).name, entries.DEFAULT)
    names = tuple(entry.meta["categories"])
    network, count = _load_file(name, file or download_torchvision(bare, entry.url), len(names))
    names = names if count == len(names) else _number_names(task, count)
    return NamedNetwork(name, network, task, names, _read_preprocessing(network, entry))


def _load_file(name: str, file: str, outputs: int | None) -> tuple[nn.Module, int]:
    """Load a network with as many outputs as a file of weights has.

    Args:
        name: name of the network.
        file: file of its weights.
        outputs: usual number of outputs; None for timm's.

    Returns:
        the network and its number of outputs.
    """
    state, network = load_state_dict(file), build_named_network(name, outputs)
    usual = network.num_classes if outputs is None else outputs

    def rename(entry: str) -> str:
        return timm_entry(name.removeprefix(TIMM), DENSE_LAYER.sub(r"\1", entry))

    count = _count_outputs(network, fit_names(state, get_weights(network), rename), usual)
    if count != usual:
        network = build_named_network(name, count)
    # torchvision's weights of segmentation models include a head that helps in training alone.
    state = {k: v for k, v in state.items() if "aux_classifier." not in k}
    load_into(network, state, file, rename=rename)
    return network, count


def _count_outputs(network: nn.Module, state: State, usual: int) -> int:
    """Return the number of outputs in a state, where a network has the usual number.

    The heads of detectors have rows for every output, and perhaps for several boxes of each.
    """
    own = get_weights(network)
    heads = [k for k in own if k in state and own[k].ndim and len(own[k]) != len(state[k])]
    counts = {len(state[k]) * usual / len(own[k]) for k in heads}
    count = counts.pop() if len(counts) == 1 else usual
    return int(count) if count == int(count) else usual


def _number_names(task: str, count: int) -> tuple[str, ...]:
    """Return names of outputs that have none: ImageNet's for their number, else numbers."""
    if task == DETECTION:
        return (BACKGROUND, *map(str, range(count - 1)))
    if task == CLASSIFICATION and count == IMAGENET_CLASSES:
        return tuple(imagenet_names())
    return tuple(map(str, range(count)))


def _read_preprocessing(network: nn.Module, entry: Any) -> Preprocessing:
    """Return the preprocessing of an entry of torchvision's weights, or of a detector itself."""
    transform = entry.transforms()
    if not hasattr(transform, "mean"):
        return Preprocessing.of_network(network)
    return Preprocessing(
        transform.mean,
        transform.std,
        short_edge=(transform.resize_size or [0])[0],
        crop=getattr(transform, "crop_size", [0])[0],
        interpolation=transform.interpolation.value,
    )
