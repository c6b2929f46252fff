"""A ResNet of Detectron2, entered behind a bridge from latents, as a backbone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone, ResNet, build_resnet_backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from detectron2.projects.deeplab import build_resnet_deeplab_backbone

from cdl_d2.codec import STRIDE
from cdl_d2.d2.modeling.coded_input import build_codec
from cdl_d2.errors import CdlError
from cdl_d2.nn.bridge import Bridge

ENTRIES = {"stem": 4, "res2": 4, "res3": 8}  # after which layer, and its stride in pixels


class BridgedResNet(Backbone):
    """The stages of a pixel ResNet behind its entry, under their own names, so that a pixel
    checkpoint fits them; what the layers before the entry gave comes from a bridge.

    Args:
        bridge: from latents to the feature `entry`.
        resnet: its layers up to `entry` are left out.
        entry: one of ENTRIES.
    """

    def __init__(self, bridge: Bridge, resnet: ResNet, entry: str):
        super().__init__()
        self.bridge = bridge
        before = resnet.stage_names.index(entry) + 1 if entry != "stem" else 0
        self._entry, self.stage_names = entry, resnet.stage_names[before:]
        for name in self.stage_names:
            self.add_module(name, getattr(resnet, name))
        known = {entry, *self.stage_names}
        self._shapes = {name: s for name, s in resnet.output_shape().items() if name in known}

    def forward(self, latents: torch.Tensor) -> dict[str, torch.Tensor]:
        """From N x M x h x w latents to N x C x H/stride x W/stride features."""
        features = {self._entry: self.bridge(latents)}
        feature = features[self._entry]
        for name in self.stage_names:
            features[name] = feature = getattr(self, name)(feature)
        return {name: features[name] for name in self._shapes}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each feature."""
        return self._shapes

    @property
    def size_divisibility(self) -> int:
        """Pixels: whole cells of the last stage, and of latents."""
        return max(STRIDE, *(shape.stride for shape in self._shapes.values()))


def bridge_resnet(
    cfg: CfgNode, build: Callable[[CfgNode, ShapeSpec], ResNet], input_shape: ShapeSpec
) -> BridgedResNet:
    """The ResNet of MODEL.RESNETS behind the bridge of MODEL.BRIDGE.

    Args:
        build: makes the pixel ResNet; `input_shape` describes pixels.

    Raises:
        CdlError: for an unknown entry or kind, one behind the last stage, or a frozen stage that
            is left out.
    """
    keys, codec = cfg.MODEL.BRIDGE, build_codec(cfg)
    if keys.ENTRY not in ENTRIES:
        raise CdlError(f"MODEL.BRIDGE.ENTRY {keys.ENTRY!r} is not one of {', '.join(ENTRIES)}")
    resnet = build(cfg, input_shape)
    first = resnet.stem if keys.ENTRY == "stem" else getattr(resnet, keys.ENTRY)
    channels = first.out_channels if keys.ENTRY == "stem" else first[-1].out_channels
    bridge = Bridge(
        codec,
        ENTRIES[keys.ENTRY],
        channels,
        keys.KIND,
        keys.WIDTH or None,
        keys.FROZEN,
        (lambda c: get_norm(_learning(cfg.MODEL.RESNETS.NORM), c)),
    )
    return BridgedResNet(bridge, resnet, keys.ENTRY)


def _learning(norm: str) -> str:
    """A frozen norm has no statistics of what a bridge gives."""
    return "BN" if norm == "FrozenBN" else norm


@BACKBONE_REGISTRY.register()
def build_bridged_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> BridgedResNet:
    """Detectron2's ResNet behind a bridge; raises as bridge_resnet."""
    return bridge_resnet(cfg, build_resnet_backbone, input_shape)


@BACKBONE_REGISTRY.register()
def build_bridged_deeplab_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> BridgedResNet:
    """The ResNet of Detectron2's DeepLab project behind a bridge.

    Raises:
        CdlError: as bridge_resnet; for an output stride that is not 16.
    """
    resnets = cfg.MODEL.RESNETS
    if cfg.MODEL.BRIDGE.ENTRY not in resnets.OUT_FEATURES:
        raise CdlError(
            f"MODEL.RESNETS.OUT_FEATURES {resnets.OUT_FEATURES} lacks {cfg.MODEL.BRIDGE.ENTRY!r}"
        )
    if resnets.RES4_DILATION != 1 or resnets.RES5_DILATION != 2:
        raise CdlError(
            "latents have cells of 16 pixels: set MODEL.RESNETS.RES4_DILATION 1 and "
            "RES5_DILATION 2 for an output stride of 16"
        )
    return bridge_resnet(cfg, build_resnet_deeplab_backbone, input_shape)


@BACKBONE_REGISTRY.register()
def build_bridged_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Detectron2's feature pyramid network on a bridged ResNet, with a level by max pooling."""
    bottom_up = build_bridged_resnet_backbone(cfg, input_shape)
    return _pyramid(cfg, bottom_up, LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_retinanet_bridged_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """The pyramid of RetinaNet and FCOS on a bridged ResNet, two levels by convolution."""
    bottom_up = build_bridged_resnet_backbone(cfg, input_shape)
    channels = bottom_up.output_shape()["res5"].channels
    return _pyramid(cfg, bottom_up, LastLevelP6P7(channels, cfg.MODEL.FPN.OUT_CHANNELS))


def _pyramid(cfg: CfgNode, bottom_up: BridgedResNet, top_block) -> FPN:
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
