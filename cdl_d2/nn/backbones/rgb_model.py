"""ImageNet networks on pixels, of torchvision and of timm, by name, with their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from cdl_d2.codec.io.weights_file import load_network
from cdl_d2.errors import CdlError, imports_of_extra
from cdl_d2.packaged import LITE0, lite0_file, lite0_name

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")  # torchvision's
TIMM = "timm/"  # before the name of a network of timm
IMAGENET = "imagenet"  # instead of a file: the weights of torchvision's or timm's zoo
MEAN_AND_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision's, of RGB in [0, 1]


def build_rgb_model(name: str, classes: int, init: str = "") -> nn.Module:
    """A classifier of RGB images, N x 3 x H x W, normalized by `pixel_statistics`.

    Args:
        name: one of RESNETS, or `timm/NAME`.
        classes: of its head.
        init: where its weights come from, but for a head of another number of classes: a file, see
            load_network, or `imagenet`, the zoo of torchvision or timm (for LITE0 its package, if
            that is installed); empty for random ones.

    Raises:
        CdlError: for an unknown name, or a file that does not fit.
        FileNotFoundError: if there is no such file.
    """
    if name.startswith(TIMM):
        return timm_network(name.removeprefix(TIMM), classes, init)
    if name not in RESNETS:
        raise CdlError(f"pixel network {name!r} is not one of {', '.join(RESNETS)}, timm/NAME")
    network = getattr(torchvision.models, name)(num_classes=classes)
    if init:
        load_network(network, resnet_file(name, init), other_head=True)
    return network


def timm_network(name: str, classes: int, init: str = "", **options: Any) -> nn.Module:
    """A network of timm; see build_rgb_model.

    Args:
        options: of timm's create_model.
    """
    with imports_of_extra("timm"):
        import timm
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise CdlError(f"timm has no network {name!r}; {', '.join(near) or 'timm.list_models()'}")
    if init == IMAGENET and name == LITE0:
        init = lite0_file() or init
    zoo = init == IMAGENET
    try:
        network = timm.create_model(name, num_classes=classes, pretrained=zoo, **options)
    except (RuntimeError, TypeError) as error:
        raise CdlError(f"timm cannot make {name}: {error}") from error
    if init and not zoo:
        rename = lite0_name if name == LITE0 else str
        load_network(network, init, other_head=True, rename=rename)
    return network


def pixel_statistics(network: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation by which the RGB images in [0, 1] of a network are normalized."""
    card = getattr(network, "pretrained_cfg", None)
    return (tuple(card["mean"]), tuple(card["std"])) if card else MEAN_AND_STD


def resnet_file(name: str, source: str) -> str:
    """A file with torchvision's weights; `imagenet` downloads and checks those of the zoo."""
    if source != IMAGENET:
        return source
    url = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url
    torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    return str(Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1])
