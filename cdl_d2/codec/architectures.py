"""Which image codecs exist.

A codec is named as CompressAI names it, or is one of `generative/`; `tiny-...` is the same
architecture with 32 inner channels and 192 latent channels, whose weights can be in this package.
Others are made known by `register_codec`: those of CompressAI with a `latent_codec`, of which it
has no weights, and a user's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from itertools import count, takewhile
from typing import TYPE_CHECKING, Any

from cdl_d2.errors import CdlError

if TYPE_CHECKING:
    import torch
    from torch import nn

COMPRESSAI_ARCHITECTURES = {
    "bmshj2018-factorized": range(1, 9),
    "bmshj2018-hyperprior": range(1, 9),
    "mbt2018-mean": range(1, 9),
    "mbt2018": range(1, 9),
    "cheng2020-anchor": range(1, 7),
    "cheng2020-attn": range(1, 7),
}
# Qualities are the paper's 0.048, 0.096, 0.175 and 0.254 bits per pixel.
GENERATIVE = {"zhang2022": range(1, 5), "zhang2022-layered": range(1, 5)}
LAYERED = ("zhang2022-layered",)  # with a global vector behind the channels of the latent
# One network for all qualities, each a gain of it: CompressAI's `s` plus 1.
VARIABLE_RATE = {
    "bmshj2018-hyperprior-vbr": range(1, 9),
    "mbt2018-mean-vbr": range(1, 9),
    "mbt2018-vbr": range(1, 9),
}
ARCHITECTURES = {**COMPRESSAI_ARCHITECTURES, **GENERATIVE, **VARIABLE_RATE}
TINY_PREFIX = "tiny-"
TINY_CHANNELS = {"N": 32, "M": 192}
TINY_QUALITIES = {"tiny-bmshj2018-hyperprior": range(3)}
METRICS = ("mse", "ms-ssim")
ENTRY_POINTS = "cdl_d2.codecs"  # of installed packages: modules that register codecs
OWN_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")  # files and checkpoints have room for it


def check_codec_choice(name: str, quality: int, metric: str, own_weights: bool = False) -> None:
    """Raise CdlError, naming the value and what is possible, unless the choice exists.

    Args:
        own_weights: the weights come from the user, not from this package or a zoo.
    """
    tiny = {
        TINY_PREFIX + k: v if k in VARIABLE_RATE else range(v.stop)
        for k, v in ARCHITECTURES.items()
    }
    if not own_weights:
        tiny |= TINY_QUALITIES
    own = registered_codec(name)
    qualities = own.qualities if own else {**ARCHITECTURES, **tiny}.get(name)
    if qualities is None:
        known = ", ".join([*ARCHITECTURES, *tiny, *REGISTERED])
        raise CdlError(f"codec name {name!r} is not one of {known}")
    if quality not in qualities:
        raise CdlError(f"quality {quality} is not one of {_span(qualities)} for {name}")
    metrics = METRICS[:1] if name in TINY_QUALITIES and not own_weights else METRICS
    if metric not in metrics:
        raise CdlError(f"metric {metric!r} is not one of {', '.join(metrics)} for {name}")


def _span(qualities: range) -> str:
    return f"{qualities.start}..{qualities.stop - 1}"


@dataclass(frozen=True)
class RegisteredCodec:
    """What `register_codec` was given."""

    build: Callable[[int], nn.Module]
    channels: int
    qualities: range
    # Gives a network of the width that some weights have, and its channels.
    build_like: Callable[[Mapping[str, torch.Tensor]], tuple[nn.Module, int]] | None = None

    def network_like(self, state: Mapping[str, torch.Tensor], quality: int) -> nn.Module:
        """Build an untrained network of the width of some weights, or else of a quality.

        Raises:
            KeyError: if the weights are not those of such a network.
        """
        if self.build_like is None:
            return self.new_network(quality)
        network, network.M = self.build_like(state)
        return network

    def new_network(self, quality: int) -> nn.Module:
        """An untrained network for a quality."""
        network = self.build(quality)
        network.M = self.channels  # where CompressAI's models say it
        return network


REGISTERED: dict[str, RegisteredCodec] = {}


def register_codec(
    name: str,
    build: Callable[[int], nn.Module],
    channels: int,
    qualities: range = range(1, 9),
) -> None:
    """Make a codec known by name, to `Codec.load`, configs and commands, with weights of its own.

    Commands know it if an installed package has an entry point of the group `cdl_d2.codecs` with
    this name, whose value is the module that calls this.

    Args:
        name: lower-case letters, digits, dots, dashes and underscores, up to 40.
        build: from a quality to an untrained network, see `check_network` for what it must have.
        channels: M, of its latent.
        qualities: that it is trained for, between 0 and 255.

    Raises:
        CdlError: for another name.
    """
    check_own_name(name)
    REGISTERED[name] = RegisteredCodec(build, channels, qualities)


def registered_codec(name: str) -> RegisteredCodec | None:
    """The codec of a name; None if there is none that was registered."""
    if name not in REGISTERED and name.removeprefix(TINY_PREFIX) not in ARCHITECTURES:
        for entry in entry_points(group=ENTRY_POINTS, name=name):
            entry.load()
    return REGISTERED.get(name)


def check_own_name(name: str) -> None:
    """Raise CdlError unless a name is one that a user's codec may have."""
    if not OWN_NAME.fullmatch(name) or name.removeprefix(TINY_PREFIX) in ARCHITECTURES:
        raise CdlError(
            f"codec name {name!r}: one of your own has up to 40 lower-case letters, digits, dots, "
            "dashes and underscores, and is none that CompressAI or this package has"
        )


def _class_of_compressai(name: str, *arguments: Any) -> nn.Module:
    import compressai.models

    return getattr(compressai.models, name)(*arguments)


def _like_checkerboard(state: Mapping[str, torch.Tensor]) -> tuple[nn.Module, int]:
    width = len(state["g_a.0.conv1.weight"])
    return _class_of_compressai("Cheng2020AnchorCheckerboard", width), width


def _like_elic(name: str, state: Mapping[str, torch.Tensor]) -> tuple[nn.Module, int]:
    contexts = (f"latent_codec.y.latent_codec.y{n}.context_prediction.weight" for n in count())
    groups = [state[key].shape[1] for key in takewhile(state.__contains__, contexts)]
    width, channels = len(state["g_a.0.weight"]), sum(groups)
    return _class_of_compressai(name, width, channels, groups), channels


for _name, _network, _channels, _like in (
    ("cheng2020-anchor-checkerboard", "Cheng2020AnchorCheckerboard", 192, _like_checkerboard),
    ("elic2022-official", "Elic2022Official", 320, partial(_like_elic, "Elic2022Official")),
    ("elic2022-chandelier", "Elic2022Chandelier", 320, partial(_like_elic, "Elic2022Chandelier")),
):
    REGISTERED[_name] = RegisteredCodec(
        lambda quality, _network=_network: _class_of_compressai(_network),
        _channels,
        range(1, 9),
        _like,
    )
