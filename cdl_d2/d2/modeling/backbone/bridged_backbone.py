"""RGB backbone of Detectron2 whose first layers are replaced by a bridge from latents."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, ResNet

from cdl_d2.codec import STRIDE
from cdl_d2.d2.model_input import build_codec, check_reads_latents
from cdl_d2.d2.modeling.backbone.initialization import initialize
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
    """

    def __init__(self, bridge: Bridge, resnet: ResNet, entry: str):
        super().__init__()
        self.bridge = bridge
        before = resnet.stage_names.index(entry) + 1 if entry != "stem" else 0
        self._entry, self.stage_names = entry, resnet.stage_names[before:]
        for name in self.stage_names:
            self.add_module(name, getattr(resnet, name))
        names = {entry, *self.stage_names}
        self._shapes = {name: s for name, s in resnet.output_shape().items() if name in names}
        self._out_features = list(self._shapes)
        self._size_divisibility = max(STRIDE, *(shape.stride for shape in self._shapes.values()))

    def forward(self, latents: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute features, N x C x H/stride x W/stride, of N x M x h x w latents."""
        feature = self.bridge(latents)
        features = {self._entry: feature}
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
    Detectron2's ResNets, with or without a feature pyramid network.

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
    resnet = getattr(backbone, "bottom_up", backbone)
    if not isinstance(resnet, ResNet):
        raise CdlError(
            f"MODEL.BRIDGE.ENTRY {keys.ENTRY} is for a ResNet of Detectron2, not for "
            f"{type(resnet).__name__}: set it to {FIRST_CONVOLUTION}"
        )
    bridged = _bridged_resnet(cfg, resnet)
    if resnet is backbone:
        return bridged
    backbone.bottom_up = bridged
    return backbone


def _bridged_resnet(cfg: CfgNode, resnet: ResNet) -> BridgedResNet:
    keys = cfg.MODEL.BRIDGE
    parts = ["stem", *resnet.stage_names]
    missing = set(parts[: parts.index(keys.ENTRY)]).intersection(resnet.output_shape())
    if missing:
        raise CdlError(
            f"MODEL.RESNETS.OUT_FEATURES has {min(missing)}, which lies before the entry "
            f"{keys.ENTRY}, where nothing is computed"
        )
    entered = getattr(resnet, keys.ENTRY)
    channels = (entered if keys.ENTRY == "stem" else entered[-1]).out_channels
    # A frozen norm has no statistics of the bridge's output.
    norm = "BN" if cfg.MODEL.RESNETS.NORM == "FrozenBN" else cfg.MODEL.RESNETS.NORM
    bridge = Bridge(
        build_codec(cfg),
        STAGE_STRIDES[keys.ENTRY],
        channels,
        keys.KIND,
        keys.WIDTH or None,
        keys.FROZEN,
        lambda channels: get_norm(norm, channels),
    )
    return BridgedResNet(bridge, resnet, keys.ENTRY)
