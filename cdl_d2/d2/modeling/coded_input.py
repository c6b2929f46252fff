"""What a config's model is shown."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from cdl_d2.codec import Codec, CodecChoice
from cdl_d2.d2.config import check_source
from cdl_d2.d2.modeling.building import naming_config
from cdl_d2.errors import CdlError
from cdl_d2.nn.input.coded_input import CodedInput


def architecture_of(cfg: CfgNode) -> type[nn.Module]:
    """Return the class of MODEL.META_ARCHITECTURE; mappers and tasks ask it what it needs.

    Raises:
        CdlError: if there is none of that name.
    """
    with naming_config(cfg):
        return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)


def needs_image(cfg: CfgNode) -> bool:
    """Whether the model of a config trains on items that have the original `image` too, whatever it
    reads: its class's `needs_image` says so."""
    return getattr(architecture_of(cfg), "needs_image", lambda cfg: False)(cfg)


def check_reads_latents(cfg: CfgNode) -> None:
    """Raise CdlError if the model of a config gives pixels to its backbone, which reads latents:
    for its INPUT.DOMAIN, or its meta-architecture, one of Detectron2's own, say."""
    ours, name = architecture_of(cfg), cfg.MODEL.META_ARCHITECTURE
    if _reads_latents(ours):
        if cfg.INPUT.DOMAIN in ("image", "reconstruction"):
            raise CdlError(
                f"MODEL.BACKBONE.NAME {cfg.MODEL.BACKBONE.NAME} reads latents, not INPUT.DOMAIN "
                f"{cfg.INPUT.DOMAIN!r}: set INPUT.DOMAIN latent"
            )
        return
    stock = [each for _, each in META_ARCH_REGISTRY if not _reads_latents(each)]

    def on_pixels(architecture: type[nn.Module]) -> type[nn.Module] | None:
        """What an architecture that reads latents inherits from."""
        return next((base for base in architecture.__mro__ if base in stock), None)

    known = [
        each
        for each, architecture in META_ARCH_REGISTRY
        if _reads_latents(architecture) and on_pixels(architecture) is ours
    ]
    advice = f"set it to {' or '.join(known)}"
    if not known:
        advice = f"register one that inherits from cdl_d2.d2.CompressedDetector and {name}"
    raise CdlError(
        f"MODEL.META_ARCHITECTURE {name} gives images to MODEL.BACKBONE.NAME "
        f"{cfg.MODEL.BACKBONE.NAME}, which reads latents: {advice}"
    )


def _reads_latents(architecture: object) -> bool:
    return hasattr(architecture, "set_input")


def build_codec(cfg: CfgNode) -> Codec:
    """The codec of MODEL.CODEC; equal choices share one instance, since codecs are frozen."""
    return CodecChoice.from_config(cfg.MODEL.CODEC).load()


def build_coded_input(cfg: CfgNode) -> CodedInput:
    """What INPUT.DOMAIN, INPUT.FORMAT and MODEL.CODEC say that the model looks at.

    Raises:
        CdlError: for an unknown domain or INPUT.LATENT_SOURCE; see Codec.load.
    """
    reads_scales = getattr(architecture_of(cfg), "reads_scales", lambda cfg: False)
    scales, source = reads_scales(cfg), check_source(cfg)
    if cfg.INPUT.DOMAIN == "image":
        return CodedInput("image", None, cfg.INPUT.FORMAT, scales, source)
    choice = CodecChoice.from_config(cfg.MODEL.CODEC)
    codec, others = choice.load(), choice.load_others()
    return CodedInput(cfg.INPUT.DOMAIN, codec, cfg.INPUT.FORMAT, scales, source, others)
