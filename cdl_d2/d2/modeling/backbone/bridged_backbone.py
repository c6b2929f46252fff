"""RGB backbone of Detectron2 whose first layers are replaced by a bridge from latents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, ResNet
from torch import nn

from cdl_d2.codec import STRIDE
from cdl_d2.d2.model_input import build_codec, check_reads_latents
from cdl_d2.d2.modeling.backbone.initialization import initialize
from cdl_d2.d2.modeling.backbone.timm_backbone import STAGES, TimmBackbone
from cdl_d2.errors import CdlError, check_choice, with_advice
from cdl_d2.nn.bridge.bridge import ENTRIES, FIRST_CONVOLUTION, STAGE_STRIDES, Bridge
from cdl_d2.nn.bridge.linear_bridge import bridge_first_convolution

BRIDGE_ADVICE = "check MODEL.BRIDGE.STRIDE and MODEL.BRIDGE.WIDTH"


class BridgedResNet(Backbone):
    """Bridge and later stages of an RGB ResNet, under their names in an RGB checkpoint.

    Args:
        bridge: from latents to the feature `entry`.
        resnet: RGB ResNet; its layers up to `entry` are left out.
        entry: one of STAGE_STRIDES.

    Attributes:
        entry: name of the feature that the bridge returns.
    """

    def __init__(self, bridge: Bridge, resnet: ResNet, entry: str):
        super().__init__()
        self.bridge = bridge
        before = resnet.stage_names.index(entry) + 1 if entry != "stem" else 0
        self.entry, self.stage_names = entry, resnet.stage_names[before:]
        for name in self.stage_names:
            self.add_module(name, getattr(resnet, name))
        names = {entry, *self.stage_names}
        self._shapes = {name: s for name, s in resnet.output_shape().items() if name in names}
        self._out_features = list(self._shapes)
        self._size_divisibility = max(STRIDE, *(shape.stride for shape in self._shapes.values()))

    def forward(self, latents: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute features, N x C x H/stride x W/stride, of N x M x h x w latents."""
        feature = self.bridge(latents)
        features = {self.entry: feature}
        for name in self.stage_names:
            feature = getattr(self, name)(feature)
            features[name] = feature
        return {name: features[name] for name in self._out_features}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of each feature."""
        return self._shapes

    @property
    def size_divisibility(self) -> int:
        """Largest stride of the features and the latent, in pixels."""
        return self._size_divisibility


@BACKBONE_REGISTRY.register()
def build_bridged_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Build the RGB backbone MODEL.BRIDGE.BACKBONE behind the bridge of MODEL.BRIDGE.

    The entry `conv1` fits any backbone with one convolution on the image; other entries fit
    Detectron2's ResNets, and `res2` and `res3` networks of timm, too, with or without a feature
    pyramid network.

    Args:
        cfg: config of the model.
        input_shape: of images.

    Raises:
        CdlError: for an unknown backbone, entry or kind of bridge, one that does not fit the
            backbone, or a model that gives pixels to its backbone.
    """
    keys = cfg.MODEL.BRIDGE
    check_reads_latents(cfg)
    if keys.BACKBONE not in BACKBONE_REGISTRY or keys.BACKBONE == cfg.MODEL.BACKBONE.NAME:
        raise CdlError(f"MODEL.BRIDGE.BACKBONE {keys.BACKBONE!r} is no RGB backbone of Detectron2")
    check_choice("MODEL.BRIDGE.ENTRY", keys.ENTRY, ENTRIES)
    backbone = _bridged(cfg, BACKBONE_REGISTRY.get(keys.BACKBONE)(cfg, input_shape))
    initialize(backbone, cfg)
    return backbone


def _bridged(cfg: CfgNode, backbone: Backbone) -> Backbone:
    keys = cfg.MODEL.BRIDGE
    if keys.ENTRY == FIRST_CONVOLUTION:
        with with_advice(BRIDGE_ADVICE):
            bridge_first_convolution(backbone, build_codec(cfg), keys.WIDTH or None, keys.STRIDE)
        return backbone
    network = getattr(backbone, "bottom_up", backbone)
    if isinstance(network, ResNet):
        bridged = _bridge_resnet(cfg, network)
    elif isinstance(network, TimmBackbone) and keys.ENTRY in STAGES:
        bridged = _bridge_timm_network(cfg, network)
    else:
        raise CdlError(
            f"MODEL.BRIDGE.ENTRY {keys.ENTRY} is for a ResNet of Detectron2, or res2 and res3 for "
            f"one of timm, not for {type(network).__name__}: set it to {FIRST_CONVOLUTION}"
        )
    if network is backbone:
        return bridged
    backbone.bottom_up = bridged
    return backbone


def _bridge_resnet(cfg: CfgNode, resnet: ResNet) -> BridgedResNet:
    entry = cfg.MODEL.BRIDGE.ENTRY
    parts = ["stem", *resnet.stage_names]
    _check_features(cfg, resnet, parts[: parts.index(entry)], "MODEL.RESNETS.OUT_FEATURES")
    entered = getattr(resnet, entry)
    channels = (entered if entry == "stem" else entered[-1]).out_channels
    # A frozen norm has no statistics of the bridge's output.
    norm = "BN" if cfg.MODEL.RESNETS.NORM == "FrozenBN" else cfg.MODEL.RESNETS.NORM
    return BridgedResNet(_build_bridge(cfg, channels, norm), resnet, entry)


def _bridge_timm_network(cfg: CfgNode, network: TimmBackbone) -> TimmBackbone:
    entry = cfg.MODEL.BRIDGE.ENTRY
    _check_features(cfg, network, STAGES[: STAGES.index(entry)], "MODEL.TIMM.OUT_FEATURES")
    stage = network.find_stage(entry)
    bridge = _build_bridge(cfg, stage.channels, "BN", stage.is_rectified)
    network.replace_stage(entry, stage, bridge)
    return network


def _check_features(cfg: CfgNode, network: Backbone, before: Sequence[str], key: str) -> None:
    """Raise CdlError if a network returns features from before the entry."""
    if missing := set(before).intersection(network.output_shape()):
        raise CdlError(
            f"{key} has {min(missing)}, which lies before the entry {cfg.MODEL.BRIDGE.ENTRY}, "
            "where nothing is computed"
        )


def _build_bridge(cfg: CfgNode, channels: int, norm: str, is_rectified: bool = True) -> Bridge:
    keys = cfg.MODEL.BRIDGE
    return Bridge(
        build_codec(cfg),
        STAGE_STRIDES[keys.ENTRY],
        channels,
        keys.KIND,
        keys.WIDTH or None,
        keys.FROZEN,
        lambda channels: get_norm(norm, channels),
        is_rectified,
    )


def find_replaced_stage(model: nn.Module) -> str | None:
    """Return the name of the RGB model's module that a Bridge replaces; None without one."""
    for name, module in model.named_modules():
        if isinstance(module, BridgedResNet):
            return f"{name}.{module.entry}"
        if isinstance(module, Bridge):
            return name
    return None
