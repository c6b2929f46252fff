"""Detectron2 backbones that take latents as input."""

from detectron2.modeling import build_backbone

__all__ = ["build_backbone"]
