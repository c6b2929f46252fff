"""timm networks as Detectron2 backbones, with images as input."""

from __future__ import annotations

import logging

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import nn

from cdl_d2.errors import CdlError, check_choice
from cdl_d2.nn.backbones.rgb_model import build_timm_network, pixel_statistics
from cdl_d2.nn.bridge.stage import Stage, bridge_stage, find_stage

STAGES = ("res2", "res3", "res4", "res5")
STRIDE = 4  # of the first stage, in pixels
TRIAL_SIZE = 64, 96  # (H, W) in pixels of the image by which a stage is found
NORMS = ("BN", "FrozenBN")


class TimmBackbone(Backbone):
    """Last four stages of a timm network, named as those of Detectron2's ResNets.

    Args:
        network: timm network with stages from stride 4 on; its head is removed.
        out_features: those of STAGES to return.

    Raises:
        CdlError: for a network with other stages, or an unknown feature.
    """

    def __init__(self, network: nn.Module, out_features: tuple[str, ...] = STAGES):
        super().__init__()
        stages = [
            (index, info["num_chs"], info["reduction"])
            for index, info in enumerate(getattr(network, "feature_info", ()))
            if info["reduction"] >= STRIDE
        ]
        if [stride for *_, stride in stages[:2]] != [4, 8] or len(stages) != len(STAGES):
            raise CdlError(
                f"{type(network).__name__} has features of strides "
                f"{[stride for *_, stride in stages]}, not four from 4 and 8 on: take a network "
                "of timm with stages, such as resnet18, convnext_tiny or tf_efficientnet_lite0"
            )
        unknown = set(out_features) - set(STAGES)
        if unknown or not out_features:
            raise CdlError(
                f"MODEL.TIMM.OUT_FEATURES {sorted(unknown)} are not of {', '.join(STAGES)}"
            )
        self._indices = {name: index for name, (index, *_) in zip(STAGES, stages, strict=True)}
        indices = list(self._indices.values())
        network.prune_intermediate_layers(indices, prune_norm=True, prune_head=True)
        self.network = network
        self._shapes = {
            name: ShapeSpec(channels=channels, stride=stride)
            for name, (_, channels, stride) in zip(STAGES, stages, strict=True)
        }
        self._out_features = [name for name in STAGES if name in out_features]

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute N x C x H/stride x W/stride features of N x 3 x H x W images.

        Behind a bridge, the input are latents.
        """
        tensors = self.network.forward_intermediates(
            images, indices=list(self._indices.values()), intermediates_only=True
        )
        features = dict(zip(self._indices, tensors, strict=True))
        return {name: features[name] for name in self._out_features}

    def find_stage(self, name: str) -> Stage:
        """Return one of STAGES."""
        image = torch.rand(1, 3, *TRIAL_SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
        module, was_training = self.network.feature_info[self._indices[name]], self.training
        self.eval()
        stage = find_stage(self.network, module["module"], lambda: self(image), TRIAL_SIZE)
        self.train(was_training)
        return stage

    def replace_stage(self, name: str, stage: Stage, bridge: nn.Module) -> None:
        """Replace a stage, and all layers before it, by a bridge that reads the input."""
        bridge_stage(self.network, stage, bridge)
        self._indices = {n: i for n, i in self._indices.items() if n >= name}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of each feature."""
        return {name: self._shapes[name] for name in self._out_features}

    @property
    def size_divisibility(self) -> int:
        """Always 32 pixels, also if the last stages are dilated."""
        return 32


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """Build the timm backbone of MODEL.TIMM.

    Args:
        cfg: config of the model.
        input_shape: of images.

    Raises:
        CdlError: for an unknown network or NORM, or a network without four stages.
        FileNotFoundError: if INIT is a file that does not exist.
    """
    keys = cfg.MODEL.TIMM
    check_choice("MODEL.TIMM.NORM", keys.NORM, NORMS)
    options = {} if keys.OUTPUT_STRIDE == 32 else {"output_stride": keys.OUTPUT_STRIDE}
    network = build_timm_network(keys.NAME, classes=1, init=keys.INIT, **options)
    _compare_normalization(cfg, network)
    if keys.NORM == "FrozenBN":
        from timm.layers import freeze_batch_norm_2d

        network = freeze_batch_norm_2d(network)
    return TimmBackbone(network, tuple(keys.OUT_FEATURES))


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build a feature pyramid (MODEL.FPN, P2 to P6) on the timm backbone of MODEL.TIMM.

    Args:
        cfg: config of the model.
        input_shape: of images.

    Raises:
        CdlError, FileNotFoundError: as build_timm_backbone.
    """
    return FPN(
        bottom_up=build_timm_backbone(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def _compare_normalization(cfg: CfgNode, network: nn.Module) -> None:
    """Warn if the config normalizes pixels differently from the network's training."""
    scaled = [[255 * value for value in values] for values in pixel_statistics(network)]
    if cfg.INPUT.FORMAT == "BGR":
        scaled = [values[::-1] for values in scaled]
    used = [list(cfg.MODEL.PIXEL_MEAN), list(cfg.MODEL.PIXEL_STD)]
    if cfg.MODEL.TIMM.INIT and not torch.allclose(torch.tensor(used), torch.tensor(scaled), atol=1):
        logging.getLogger(__name__).warning(
            f"{cfg.MODEL.TIMM.NAME} was trained for MODEL.PIXEL_MEAN {scaled[0]} and PIXEL_STD "
            f"{scaled[1]} in the order {cfg.INPUT.FORMAT}; the config has {used[0]} and {used[1]}"
        )
