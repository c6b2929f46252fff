"""RGB models of torchvision and timm by name, with ImageNet weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from cdl_d2.codec.io.weights_file import load_network
from cdl_d2.errors import CdlError, MissingWeightsError, imports_of_extra
from cdl_d2.packaged import installed_weights, timm_entry

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")  # torchvision's
TIMM = "timm/"  # prefix of the names of timm's networks
IMAGENET = "imagenet"  # instead of a file: weights of torchvision's or timm's zoo
IMAGENET_CLASSES = 1000  # of these weights
MEAN_AND_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision's, of RGB in [0, 1]


def build_rgb_model(name: str, classes: int, init: str = "") -> nn.Module:
    """Build a classifier of RGB images, N x 3 x H x W, normalized by `pixel_statistics`.

    Args:
        name: one of RESNETS, or `timm/NAME`.
        classes: number of classes.
        init: weights, except of a head with another number of classes: a file, or `imagenet` for
            the zoo of torchvision or timm (or of IMAGENET_PACKAGES, if the network's is installed);
            empty for random weights.

    Raises:
        CdlError: for an unknown name, or a file that does not fit.
        FileNotFoundError: if there is no such file.
    """
    if name.startswith(TIMM):
        return build_timm_network(name.removeprefix(TIMM), classes, init)
    if name not in RESNETS:
        raise CdlError(f"RGB model {name!r} is not one of {', '.join(RESNETS)}, timm/NAME")
    network = getattr(torchvision.models, name)(num_classes=classes)
    if init:
        load_network(network, find_resnet_weights(name, init), skip_head=True)
    return network


def build_timm_network(name: str, classes: int | None, init: str = "", **options: Any) -> nn.Module:
    """Build a network of timm.

    Args:
        name: timm's name of the network.
        classes: number of classes; None for that of timm's weights.
        init: weights, as for `build_rgb_model`.
        options: further arguments of timm's `create_model`.

    Raises:
        CdlError: for an unknown name, options that timm rejects, or a file that does not fit.
        FileNotFoundError: if there is no such file.
        MissingWeightsError: if the zoo's weights cannot be downloaded.
    """
    with imports_of_extra("timm"):
        import timm
    if not timm.is_model(name):
        similar = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise CdlError(
            f"timm has no network {name!r}, only {', '.join(similar) or 'timm.list_models()'}"
        )
    if init == IMAGENET:
        init = installed_weights(f"{TIMM}{name}") or init
    zoo = init == IMAGENET
    try:
        with weights_download(name):
            network = timm.create_model(name, num_classes=classes, pretrained=zoo, **options)
    except (RuntimeError, TypeError) as error:
        raise CdlError(f"timm cannot build {name}: {error}") from error
    if init and not zoo:
        load_network(network, init, skip_head=True, rename=partial(timm_entry, name))
    return network


def pixel_statistics(network: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and deviation that normalize a network's RGB images in [0, 1]."""
    cfg = getattr(network, "pretrained_cfg", None)  # timm's
    return (tuple(cfg["mean"]), tuple(cfg["std"])) if cfg else MEAN_AND_STD


def find_resnet_weights(name: str, source: str) -> str:
    """Return a file with torchvision's weights; `imagenet` downloads and checks the zoo's.

    Raises:
        CdlError: if they cannot be downloaded.
    """
    if source != IMAGENET:
        return source
    return download_torchvision(
        name, torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url
    )


def download_torchvision(name: str, url: str) -> str:
    """Return the file of weights of torchvision's zoo, downloaded and checked unless it is cached.

    Raises:
        MissingWeightsError: if they cannot be downloaded.
    """
    with weights_download(name):
        torch.hub.load_state_dict_from_url(
            url, map_location="cpu", check_hash=True, weights_only=True
        )
    return str(Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1])


def imagenet_names() -> list[str]:
    """Return the names of the classes of ImageNet, in the order of the networks' outputs."""
    return torchvision.models.ResNet50_Weights.IMAGENET1K_V1.meta["categories"]


@contextmanager
def weights_download(name: str) -> Iterator[None]:
    """Raise MissingWeightsError for an OSError in a block that downloads a network's weights."""
    try:
        yield
    except OSError as error:
        raise MissingWeightsError(
            f"the pretrained weights of {name} cannot be downloaded ({error}): fetch them "
            "elsewhere, and give their file"
        ) from error
