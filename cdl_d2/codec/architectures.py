"""Codecs of this package: CompressAI's, and those of `generative/`.

`tiny-<name>` is the same architecture with 32 inner and 192 latent channels. CompressAI is imported
when a network is built. Wire numbers are in files: they never change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count, takewhile
from typing import TYPE_CHECKING

from cdl_d2.codec.entropy.autoregressive_coder import AutoregressiveCoder
from cdl_d2.codec.entropy.factorized_coder import FactorizedCoder
from cdl_d2.codec.entropy.hyperprior_coder import HyperpriorCoder
from cdl_d2.codec.entropy.latent_codec_coder import LatentCodecCoder
from cdl_d2.codec.entropy.latent_coder import LatentCoder
from cdl_d2.codec.entropy.layered_coder import LayeredCoder
from cdl_d2.codec.entropy.variable_rate_coder import (
    VariableRateAutoregressiveCoder,
    VariableRateHyperpriorCoder,
)
from cdl_d2.codec.registry import Architecture, register

if TYPE_CHECKING:
    import torch
    from torch import nn

State = Mapping[str, "torch.Tensor"]
TINY_WIDTHS = 32, 192  # N, M


def _register_with_tiny(
    architecture: Architecture,
    tiny_number: int,
    build_tiny: Callable[[], nn.Module],
    tiny_qualities: range,
    packaged: range | None = None,
) -> None:
    """Register a codec and its tiny variant, which differs in the other arguments.

    `packaged` are the qualities of the tiny variant whose weights are in this package.
    """
    register(architecture)
    tiny = replace(
        architecture,
        name=f"tiny-{architecture.name}",
        build=lambda quality: build_tiny(),
        qualities=tiny_qualities,
        wire_number=tiny_number,
        weights_url=None,
        packaged=packaged,
    )
    register(tiny)


def _register_fixed_rate(
    name: str,
    wire_number: int,
    tiny_number: int,
    coder: type[LatentCoder],
    qualities: range = range(1, 9),
    widths_of: Callable[[State], tuple[int, ...]] | None = None,
    tiny_widths: tuple[int, ...] = TINY_WIDTHS,
    packaged: range | None = None,
) -> None:
    """Register a codec of CompressAI's zoo that has one network per quality.

    `widths_of` returns the network's arguments for a state dict, N and M if it is None.
    """

    def build(*widths: int) -> nn.Module:
        from compressai.zoo.image import model_architectures

        return model_architectures[name](*widths)

    def build_quality(quality: int) -> nn.Module:
        from compressai.zoo.image import cfgs

        return build(*cfgs[name][quality])

    def weights_url(quality: int, metric: str) -> str | None:
        from compressai.zoo.image import model_urls

        return model_urls[name].get(metric, {}).get(quality)

    architecture = Architecture(
        name=name,
        build=build_quality,
        build_like=lambda state: build(*(widths_of or _widths_of)(state)),
        qualities=qualities,
        coder=coder,
        wire_number=wire_number,
        weights_url=weights_url,
    )
    tiny_qualities = range(qualities.stop)
    _register_with_tiny(
        architecture, tiny_number, lambda: build(*tiny_widths), tiny_qualities, packaged
    )


def _register_variable_rate(
    name: str, wire_number: int, tiny_number: int, coder: type[LatentCoder], **z_step: bool
) -> None:
    """Register a codec of CompressAI's zoo that has one network for all qualities.

    A quality is CompressAI's `s` plus 1.
    """

    def build(*widths: int, **options: bool) -> nn.Module:
        from compressai.zoo.image_vbr import model_architectures

        return model_architectures[name](*widths, **options)

    def build_quality(quality: int) -> nn.Module:
        from compressai.zoo.image_vbr import cfgs

        return build(*cfgs[name], **z_step)

    def build_like(state: State) -> nn.Module:
        has_z_step = "gayn2zqstep.0.weight" in state
        return build(*_widths_of(state), **({"vr_entbttlnck": True} if has_z_step else {}))

    def weights_url(quality: int, metric: str) -> str | None:
        from compressai.zoo.image_vbr import model_urls

        return model_urls[name].get(metric)

    architecture = Architecture(
        name=name,
        build=build_quality,
        build_like=build_like,
        coder=coder,
        wire_number=wire_number,
        weights_url=weights_url,
    )
    _register_with_tiny(
        architecture, tiny_number, lambda: build(*TINY_WIDTHS, **z_step), architecture.qualities
    )


def _register_generative(
    name: str, wire_number: int, tiny_number: int, coder: type[LatentCoder], class_name: str
) -> None:
    """Register a codec of `generative/`, whose qualities are 0.048, 0.096, 0.175 and 0.254 bpp."""

    def network_class() -> type[nn.Module]:
        from cdl_d2.codec.generative import networks

        return getattr(networks, class_name)

    architecture = Architecture(
        name=name,
        build=lambda quality: network_class()(),
        build_like=lambda state: network_class()(**network_class().sizes_of(state)),
        qualities=range(1, 5),
        coder=coder,
        wire_number=wire_number,
    )
    _register_with_tiny(
        architecture, tiny_number, lambda: network_class()(**network_class().TINY), range(5)
    )


def _widths_of(state: State) -> tuple[int, ...]:
    """Return N and M of a state dict."""
    return len(state["g_a.0.weight"]), len(state["g_a.6.weight"])


def _width_of(state: State) -> tuple[int, ...]:
    """Return N of a state dict whose M is N."""
    return (len(state["g_a.0.conv1.weight"]),)


def _elic_widths_of(state: State) -> tuple[int, int, list[int]]:
    """Return N, M and the channels of each group."""
    contexts = (f"latent_codec.y.latent_codec.y{n}.context_prediction.weight" for n in count())
    groups = [state[key].shape[1] for key in takewhile(state.__contains__, contexts)]
    return len(state["g_a.0.weight"]), sum(groups), groups


def _register_latent_codec(
    name: str, class_name: str, channels: int, widths_of: Callable[[State], tuple]
) -> None:
    """Register an image model of CompressAI that has a `latent_codec`, and no published weights.

    `channels` is M at the default widths. `widths_of` returns the network's arguments for a state
    dict, of which M is the second or only one.
    """

    def build(*widths: int | list[int]) -> nn.Module:
        import compressai.models

        network = getattr(compressai.models, class_name)(*widths)
        network.M = widths[:2][-1] if widths else channels
        return network

    register(
        Architecture(
            name=name,
            build=lambda quality: build(),
            build_like=lambda state: build(*widths_of(state)),
            coder=LatentCodecCoder,
        )
    )


_register_fixed_rate("bmshj2018-factorized", 0, 6, FactorizedCoder)
_register_fixed_rate("bmshj2018-hyperprior", 1, 7, HyperpriorCoder, packaged=range(3))
_register_fixed_rate("mbt2018-mean", 2, 8, HyperpriorCoder)
_register_fixed_rate("mbt2018", 3, 9, AutoregressiveCoder)
for _name, _numbers in (("cheng2020-anchor", (4, 10)), ("cheng2020-attn", (5, 11))):
    _register_fixed_rate(
        _name,
        *_numbers,
        AutoregressiveCoder,
        range(1, 7),
        widths_of=_width_of,
        tiny_widths=TINY_WIDTHS[:1],
    )
_register_generative("zhang2022", 12, 14, HyperpriorCoder, "GenerativeHyperprior")
_register_generative("zhang2022-layered", 13, 15, LayeredCoder, "LayeredGenerativeHyperprior")
_register_variable_rate(
    "bmshj2018-hyperprior-vbr", 16, 19, VariableRateHyperpriorCoder, vr_entbttlnck=True
)
_register_variable_rate("mbt2018-mean-vbr", 17, 20, VariableRateHyperpriorCoder, vr_entbttlnck=True)
_register_variable_rate("mbt2018-vbr", 18, 21, VariableRateAutoregressiveCoder)
_register_latent_codec(
    "cheng2020-anchor-checkerboard", "Cheng2020AnchorCheckerboard", 192, _width_of
)
_register_latent_codec("elic2022-official", "Elic2022Official", 320, _elic_widths_of)
_register_latent_codec("elic2022-chandelier", "Elic2022Chandelier", 320, _elic_widths_of)
