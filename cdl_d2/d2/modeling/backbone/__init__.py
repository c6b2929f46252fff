"""Networks on latents as Detectron2 backbones."""

from detectron2.modeling import build_backbone

__all__ = ["build_backbone"]
