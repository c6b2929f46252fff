"""Latent ResNet as a Detectron2 backbone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import nn

from cdl_d2.codec import Codec
from cdl_d2.d2.model_input import build_codec, check_reads_latents
from cdl_d2.d2.modeling.backbone.initialization import initialize
from cdl_d2.nn import LatentInput, LatentPyramidTrunk, LatentResNet


class LatentResNetBackbone(Backbone):
    """Features res2 to res5 of a latent, with the strides (in pixels) of an RGB ResNet's."""

    def __init__(self, pyramid: LatentPyramidTrunk):
        super().__init__()
        self.pyramid = pyramid

    def forward(self, latents: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute N x C x H/stride x W/stride features of N x M x h x w latents, h and w even."""
        return self.pyramid(latents)

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of each feature."""
        channels, strides = self.pyramid.channels, self.pyramid.strides
        return {k: ShapeSpec(channels=channels[k], stride=strides[k]) for k in channels}

    @property
    def size_divisibility(self) -> int:
        """Stride of res5 in pixels: conv5 halves a latent of stride 16."""
        return 32


@BACKBONE_REGISTRY.register()
def build_latent_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> LatentResNetBackbone:
    """Build the latent ResNet of MODEL.LATENT_RESNET for the codec of MODEL.CODEC.

    `input_shape`, of images, is not used: the codec defines the channels of latents.
    """
    return LatentResNetBackbone(LatentPyramidTrunk(build_latent_resnet(cfg)))


def build_latent_resnet(cfg: CfgNode) -> LatentResNet:
    """Build the trunk of detectors and classifiers.

    Raises:
        CdlError: if the config's model gives pixels to its backbone.
    """
    check_reads_latents(cfg)
    resnet = cfg.MODEL.LATENT_RESNET
    trunk = latent_resnet(
        build_codec(cfg),
        stem=resnet.STEM,
        conv4_blocks=resnet.CONV4_BLOCKS,
        conv5_blocks=resnet.CONV5_BLOCKS,
        width=resnet.WIDTH,
        norm=resnet.NORM,
    )
    initialize(trunk, cfg)
    return trunk


def latent_resnet(codec: Codec, **options: Any) -> LatentResNet:
    """Build the trunk for a codec's latents; `options` are arguments of LatentResNet."""
    return LatentResNet(LatentInput(codec.latent_channels, codec.identity), **options)


def latent_resnet_backbone(codec: Codec, **options: Any) -> LatentResNetBackbone:
    """Build the backbone without a config; `options` are arguments of LatentResNet."""
    return LatentResNetBackbone(LatentPyramidTrunk(latent_resnet(codec, **options)))


@BACKBONE_REGISTRY.register()
def build_latent_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build a feature pyramid network on the latent ResNet, P2 to P6 by default.

    It is that of *Learning in Compressed Domain via Knowledge Transfer*, figure 2; the first level
    is that of MODEL.FPN.IN_FEATURES.
    """
    return _pyramid(cfg, lambda res5: LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_retinanet_latent_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build RetinaNet's pyramid on the latent ResNet: P3 to P7, P6 and P7 from res5."""
    return _pyramid(cfg, lambda res5: LastLevelP6P7(res5, cfg.MODEL.FPN.OUT_CHANNELS))


@BACKBONE_REGISTRY.register()
def build_fcos_latent_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build FCOS's pyramid on the latent ResNet: P3 to P7, P6 and P7 from P5."""
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    return _pyramid(cfg, lambda res5: LastLevelP6P7(channels, channels, "p5"))


def _pyramid(cfg: CfgNode, top_block: Callable[[int], nn.Module]) -> FPN:
    """Build the pyramid of MODEL.FPN.

    Args:
        cfg: config of the model.
        top_block: from the number of channels of res5 to the block of the highest levels.
    """
    keys, trunk = cfg.MODEL.FPN, build_latent_resnet(cfg)
    return FPN(
        bottom_up=LatentResNetBackbone(LatentPyramidTrunk(trunk, keys.IN_FEATURES)),
        in_features=keys.IN_FEATURES,
        out_channels=keys.OUT_CHANNELS,
        norm=keys.NORM,
        top_block=top_block(trunk.conv5_channels),
        fuse_type=keys.FUSE_TYPE,
    )
