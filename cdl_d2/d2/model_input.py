"""Input of the model of a config: codec, CodedInput, and traits that loaders depend on."""

from __future__ import annotations

from dataclasses import dataclass

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from cdl_d2.codec import Codec, CodecChoice
from cdl_d2.d2.building import naming_config
from cdl_d2.d2.config import check_source
from cdl_d2.errors import CdlError
from cdl_d2.nn.input.coded_input import CodedInput


def architecture_of(cfg: CfgNode) -> type[nn.Module]:
    """Return the class of MODEL.META_ARCHITECTURE.

    Raises:
        CdlError: if there is none of that name.
    """
    with naming_config(cfg):
        return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)


@dataclass(frozen=True)
class ModelTraits:
    """Traits of a model that loaders depend on before it is built.

    Attributes:
        needs_image: training samples need the original image beside the latent, for a teacher.
        reads_scales: the predicted standard deviations (scales) are an input beside the latent.
    """

    needs_image: bool
    reads_scales: bool

    @classmethod
    def from_config(cls, cfg: CfgNode) -> ModelTraits:
        """Call `needs_image(cfg)` and `reads_scales(cfg)` of the model's class, if it has them."""
        methods = (getattr(architecture_of(cfg), n, None) for n in ("needs_image", "reads_scales"))
        return cls(*(method is not None and method(cfg) for method in methods))


def check_reads_latents(cfg: CfgNode) -> None:
    """Raise CdlError if a backbone on latents would get pixels.

    The cause is INPUT.DOMAIN, or a meta-architecture of Detectron2's own.
    """
    architecture, name = architecture_of(cfg), cfg.MODEL.META_ARCHITECTURE
    backbone = cfg.MODEL.BACKBONE.NAME
    if _reads_latents(architecture):
        if cfg.INPUT.DOMAIN in ("image", "reconstruction"):
            raise CdlError(
                f"MODEL.BACKBONE.NAME {backbone} reads latents, not INPUT.DOMAIN "
                f"{cfg.INPUT.DOMAIN!r}: set INPUT.DOMAIN latent"
            )
        return
    names = _latent_versions(architecture)
    advice = f"set it to {' or '.join(names)}"
    if not names:
        advice = f"register one that inherits from cdl_d2.d2.CompressedDetector and {name}"
    raise CdlError(
        f"MODEL.META_ARCHITECTURE {name} gives images to MODEL.BACKBONE.NAME {backbone}, which "
        f"reads latents: {advice}"
    )


def _reads_latents(architecture: object) -> bool:
    return hasattr(architecture, "set_input")


def _latent_versions(stock: type[nn.Module]) -> list[str]:
    """Return the names of registered latent models that inherit from a meta-architecture.

    Those that inherit from another registered RGB meta-architecture first are left out.
    """
    rgb = [kind for _, kind in META_ARCH_REGISTRY if not _reads_latents(kind)]
    return [
        name
        for name, architecture in META_ARCH_REGISTRY
        if _reads_latents(architecture)
        and next((base for base in architecture.__mro__ if base in rgb), None) is stock
    ]


def build_codec(cfg: CfgNode) -> Codec:
    """Load the codec of MODEL.CODEC. Equal configs share one instance, since codecs are frozen."""
    return CodecChoice.from_config(cfg.MODEL.CODEC).load()


def build_coded_input(cfg: CfgNode) -> CodedInput:
    """Build the CodedInput of INPUT.DOMAIN, INPUT.FORMAT and MODEL.CODEC.

    Raises:
        CdlError: for an unknown domain or INPUT.LATENT_SOURCE, or a codec that cannot be loaded.
    """
    scales, source = ModelTraits.from_config(cfg).reads_scales, check_source(cfg)
    if cfg.INPUT.DOMAIN == "image":
        return CodedInput("image", None, cfg.INPUT.FORMAT, scales, source)
    codec, *others = CodecChoice.from_config(cfg.MODEL.CODEC).load_all()
    with_margin = cfg.MODEL.BRIDGE.MARGIN and cfg.INPUT.AUGMENTATION != "latent"
    traits = cfg.INPUT.FORMAT, scales, source, others, with_margin
    return CodedInput(cfg.INPUT.DOMAIN, codec, *traits)
