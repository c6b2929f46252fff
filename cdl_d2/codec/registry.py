"""Registry of codecs: one record per name, for the codecs of this package and for users' own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from cdl_d2.errors import CdlError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from cdl_d2.codec.entropy.latent_coder import LatentCoder

METRICS = ("mse", "ms-ssim")
ENTRY_POINTS = "cdl_d2.codecs"  # group of installed packages' modules that register codecs
CODEC_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")  # bitstreams and checkpoints have room for it

Build = Callable[[int], "nn.Module"]
BuildLike = Callable[[Mapping[str, "torch.Tensor"]], "nn.Module"]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A codec that can be chosen by its name.

    Attributes:
        name: lower-case letters, digits, dots, dashes and underscores, up to 40.
        build: return an untrained network for a quality.
        build_like: return an untrained network of the widths that a state dict has, or raise
            KeyError; None to call `build` whatever the state dict.
        channels: channels M of the latent; None if the network's `M` is right.
        qualities: qualities that weights may have, between 0 and 255.
        coder: LatentCoder of the entropy model; None to select one by the network's submodules.
        wire_number: number of the codec in bitstreams, which never changes; None for a codec whose
            bitstreams carry the name.
        weights_url: return the address of trained weights for a quality and metric, None if there
            are none; None for a codec without any.
        packaged: qualities whose weights (of metric `mse`) are in this package; None for a codec
            that has no weights here.
    """

    name: str
    build: Build
    build_like: BuildLike | None = None
    channels: int | None = None
    qualities: range = range(1, 9)
    coder: type[LatentCoder] | None = None
    wire_number: int | None = None
    weights_url: Callable[[int, str], str | None] | None = None
    packaged: range | None = None

    def check_choice(self, quality: int, metric: str, own_weights: bool = False) -> None:
        """Raise CdlError for a quality or metric that the codec does not have.

        Args:
            quality: quality of the weights.
            metric: metric of the weights.
            own_weights: the weights come from the user, not from this package or a zoo.
        """
        is_packaged = self.packaged is not None and not own_weights
        qualities = self.packaged if is_packaged else self.qualities
        if quality not in qualities:
            span = f"{qualities.start}..{qualities.stop - 1}"
            raise CdlError(f"quality {quality} is not one of {span} for {self.name}")
        metrics = METRICS[:1] if is_packaged else METRICS
        if metric not in metrics:
            raise CdlError(f"metric {metric!r} is not one of {', '.join(metrics)} for {self.name}")

    def new_network(self, quality: int) -> nn.Module:
        """Return an untrained network for a quality."""
        return self._with_channels(self.build(quality))

    def network_like(self, state: Mapping[str, torch.Tensor], quality: int) -> nn.Module:
        """Return an untrained network of the widths that a state dict has.

        Raises:
            KeyError: if the state dict is not one of such a network.
        """
        if self.build_like is None:
            return self.new_network(quality)
        return self._with_channels(self.build_like(state))

    @property
    def is_variable_rate(self) -> bool:
        """True if one network has all qualities, and codes at the one that it is asked for."""
        return self.coder is not None and self.coder.is_variable_rate

    @property
    def is_trainable(self) -> bool:
        """True if this package can train the network."""
        return self.coder is None or bool(self.coder.training_quantizations)

    def _with_channels(self, network: nn.Module) -> nn.Module:
        if self.channels is not None:
            network.M = self.channels  # as CompressAI's models state it
        return network


WIRE_NAMES: dict[int, str] = {}  # names of the codecs by their numbers in bitstreams
ARCHITECTURES: dict[str, Architecture] = {}  # by name


def register(architecture: Architecture) -> None:
    """Add a codec to the registry; it replaces one of the same name that has no wire number.

    Raises:
        CdlError: if the name is malformed, or taken.
    """
    check_own_name(architecture.name)
    ARCHITECTURES[architecture.name] = architecture
    if architecture.wire_number is not None:
        WIRE_NAMES[architecture.wire_number] = architecture.name


def register_codec(
    name: str,
    build: Build,
    channels: int,
    qualities: range = range(1, 9),
    coder: type[LatentCoder] | None = None,
) -> None:
    """Register a codec of your own for `Codec.load`, configs and commands. It has no weights here.

    Commands find it if an installed package has an entry point of the group `cdl_d2.codecs` with
    this name, whose value is the module that calls this function.

    Args:
        name: lower-case letters, digits, dots, dashes and underscores, up to 40.
        build: return an untrained network for a quality. It must be built as `check_network` says.
        channels: channels M of the latent.
        qualities: qualities that weights may have, between 0 and 255.
        coder: LatentCoder of its entropy model; None for one that CompressAI's models have.

    Raises:
        CdlError: if the name is malformed, or taken.
    """
    register(
        Architecture(name=name, build=build, channels=channels, qualities=qualities, coder=coder)
    )


def unregister(name: str) -> None:
    """Remove a codec from the registry."""
    WIRE_NAMES.pop(ARCHITECTURES.pop(name).wire_number, None)


def find_architecture(name: str) -> Architecture | None:
    """Return the codec of a name, installed packages' included; None if there is none."""
    if name not in ARCHITECTURES:
        for entry in entry_points(group=ENTRY_POINTS, name=name):
            entry.load()
    return ARCHITECTURES.get(name)


def get_architecture(name: str) -> Architecture:
    """Return the codec of a name.

    Raises:
        CdlError: if there is none.
    """
    architecture = find_architecture(name)
    if architecture is None:
        raise CdlError(f"codec name {name!r} is not one of {', '.join(ARCHITECTURES)}")
    return architecture


def check_own_name(name: str) -> None:
    """Raise CdlError if a name is malformed, or that of a codec with a wire number."""
    taken = ARCHITECTURES.get(name)
    if not CODEC_NAME.fullmatch(name) or (taken and taken.wire_number is not None):
        raise CdlError(
            f"codec name {name!r} is taken, or not up to 40 lower-case letters, digits, dots, "
            "dashes and underscores"
        )
