"""DeepLab's ResNet with its first layers replaced by a transform module on latents."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, ResNet
from detectron2.projects.deeplab import build_resnet_deeplab_backbone

from cdl_d2.codec import STRIDE
from cdl_d2.d2.modeling.coded_input import build_codec
from cdl_d2.errors import CdlError
from cdl_d2.nn import LatentInput
from cdl_d2.nn.transform_module import TransformModule

FIRST = "res2"  # the feature that the transform module stands for


class LatentDeepLabBackbone(Backbone):
    """res2 from a transform module, res3 to res5 as Detectron2's DeepLab project has them.

    Args:
        transform: from latents to stride 4.
        resnet: its stem and res2 are left out.
    """

    def __init__(self, transform: TransformModule, resnet: ResNet):
        super().__init__()
        self.transform = transform
        self._names = resnet.stage_names[1:]
        for name in self._names:
            self.add_module(name, getattr(resnet, name))
        shapes = resnet.output_shape()
        self._shapes = {name: shapes[name] for name in (FIRST, *self._names) if name in shapes}

    def forward(self, latents: torch.Tensor) -> dict[str, torch.Tensor]:
        """From N x M x h x w latents to N x C x H/stride x W/stride features."""
        feature = self.transform(latents)
        features = {FIRST: feature}
        for name in self._names:
            features[name] = feature = getattr(self, name)(feature)
        return features

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each feature."""
        return self._shapes

    @property
    def size_divisibility(self) -> int:
        """Pixels: whole latent cells, as the last stage keeps their stride."""
        return STRIDE


@BACKBONE_REGISTRY.register()
def build_latent_deeplab_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> LatentDeepLabBackbone:
    """The DeepLab backbone of MODEL.RESNETS behind the module of MODEL.TRANSFORM.

    `input_shape`, which describes pixels, builds the ResNet, of which the first layers are dropped.

    Raises:
        ValueError: for an unknown module, or an output stride that is not 16.
    """
    codec, resnets = build_codec(cfg), cfg.MODEL.RESNETS
    if FIRST not in resnets.OUT_FEATURES:
        raise CdlError(f"MODEL.RESNETS.OUT_FEATURES {resnets.OUT_FEATURES} lacks {FIRST!r}")
    if resnets.RES4_DILATION != 1 or resnets.RES5_DILATION != 2:
        raise CdlError(
            "latents have cells of 16 pixels: set MODEL.RESNETS.RES4_DILATION 1 and "
            "RES5_DILATION 2 for an output stride of 16"
        )
    transform = TransformModule(
        LatentInput(codec.latent_channels, codec.identity),
        resnets.RES2_OUT_CHANNELS,
        cfg.MODEL.TRANSFORM.KIND,
        cfg.MODEL.TRANSFORM.WIDTH or None,
    )
    return LatentDeepLabBackbone(transform, build_resnet_deeplab_backbone(cfg, input_shape))
