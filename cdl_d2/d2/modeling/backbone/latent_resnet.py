"""The latent ResNet as a Detectron2 backbone."""

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
    """res2 ... res5 of a latent, with the strides (in pixels) that a pixel ResNet's have."""

    def __init__(self, pyramid: LatentPyramidTrunk):
        super().__init__()
        self.pyramid = pyramid

    def forward(self, latents: torch.Tensor) -> dict[str, torch.Tensor]:
        """From N x M x h x w latents, h and w even, to N x C x H/stride x W/stride features."""
        return self.pyramid(latents)

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each feature."""
        channels, strides = self.pyramid.channels, self.pyramid.strides
        return {k: ShapeSpec(channels=channels[k], stride=strides[k]) for k in channels}

    @property
    def size_divisibility(self) -> int:
        """Pixels: conv5 halves a latent whose cells are 16 pixels wide."""
        return 32


@BACKBONE_REGISTRY.register()
def build_latent_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> LatentResNetBackbone:
    """The latent ResNet of MODEL.LATENT_RESNET for the codec of MODEL.CODEC.

    `input_shape`, which describes pixels, is not used: the codec knows its channels.
    """
    return LatentResNetBackbone(LatentPyramidTrunk(build_latent_resnet(cfg)))


def build_latent_resnet(cfg: CfgNode) -> LatentResNet:
    """The trunk that detectors and classifiers share; raises as check_reads_latents."""
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
    """The trunk for a codec's latents; `options` are those of LatentResNet."""
    return LatentResNet(LatentInput(codec.latent_channels, codec.identity), **options)


def latent_resnet_backbone(codec: Codec, **options: Any) -> LatentResNetBackbone:
    """As build_latent_resnet_backbone, without a config; see latent_resnet."""
    return LatentResNetBackbone(LatentPyramidTrunk(latent_resnet(codec, **options)))


@BACKBONE_REGISTRY.register()
def build_latent_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Detectron2's feature pyramid network on the latent ResNet (figure 2 of *Learning in
    Compressed Domain via Knowledge Transfer*): P2 to P6, or what MODEL.FPN.IN_FEATURES begins."""
    return _pyramid(cfg, lambda res5: LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_retinanet_latent_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """P3 to P7 on the latent ResNet, P6 and P7 from res5, as Detectron2's for RetinaNet."""
    return _pyramid(cfg, lambda res5: LastLevelP6P7(res5, cfg.MODEL.FPN.OUT_CHANNELS))


@BACKBONE_REGISTRY.register()
def build_fcos_latent_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """P3 to P7 on the latent ResNet, P6 and P7 from P5, as Detectron2's FCOS has them."""
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    return _pyramid(cfg, lambda res5: LastLevelP6P7(channels, channels, "p5"))


def _pyramid(cfg: CfgNode, top_block: Callable[[int], nn.Module]) -> FPN:
    """What MODEL.FPN says, on the features that it names and no others; on top of it what
    `top_block` makes for the channels of res5."""
    keys, trunk = cfg.MODEL.FPN, build_latent_resnet(cfg)
    return FPN(
        bottom_up=LatentResNetBackbone(LatentPyramidTrunk(trunk, keys.IN_FEATURES)),
        in_features=keys.IN_FEATURES,
        out_channels=keys.OUT_CHANNELS,
        norm=keys.NORM,
        top_block=top_block(trunk.conv5_channels),
        fuse_type=keys.FUSE_TYPE,
    )
