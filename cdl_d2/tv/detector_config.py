"""Configs of torchvision detectors: plain values, saved in checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN, resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import (
    FastRCNNConvFCHead,
    FastRCNNPredictor,
    TwoMLPHead,
)
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.resnet import Bottleneck, resnet50
from torchvision.ops import MultiScaleRoIAlign

from cdl_d2.codec import Codec
from cdl_d2.codec.choice import CodecChoice
from cdl_d2.codec.latent import current_fields
from cdl_d2.errors import CdlError
from cdl_d2.nn import LatentInput, LatentPyramidTrunk, LatentResNet
from cdl_d2.nn.backbones.resnet import NORMS, NarrowResNet
from cdl_d2.nn.bridge.bridge import FIRST_CONVOLUTION
from cdl_d2.nn.bridge.linear_bridge import bridge_first_convolution
from cdl_d2.nn.input.coded_input import CodedInput
from cdl_d2.nn.input.domains import check_domain
from cdl_d2.tv.backbone import STRIDES, BridgedBody, LatentBackboneWithFPN
from cdl_d2.tv.compressed_mask_rcnn import CompressedMaskRCNN


@dataclass(frozen=True)
class Architecture:
    """Sizes of a Mask R-CNN or Faster R-CNN; the defaults are torchvision's.

    Attributes:
        bridge: part of an RGB ResNet that a latent replaces, an entry of cdl_d2.nn.bridge.bridge;
            "" for a latent ResNet.
        margin: the bridge reads the coded positions below and right of the image, too.
        width: width of the backbone relative to ResNet-50.
        stem: stem of the latent ResNet, `residual` or `conv1x1`.
        norm: normalization of all parts; "" for torchvision's choice: frozen BatchNorm in an RGB
            backbone, BatchNorm in the latent ResNet, none elsewhere.
        channels: channels of the pyramid and of the heads' convolutions.
        anchor_sizes: in pixels, one per pyramid level.
        proposals: number of proposals per image.
        anchors_sampled: anchors per image in the RPN's losses.
        proposals_sampled: proposals per image in the heads' losses.
        box_convolutions: number of convolutions in the box head.
        box_features: width of the box head's fully connected layers.
        mask_convolutions: number of convolutions in the mask head.
        masks: True for Mask R-CNN, False for Faster R-CNN.
    """

    bridge: str = ""
    margin: bool = False
    width: float = 1.0
    stem: str = "residual"
    norm: str = ""
    channels: int = 256
    anchor_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    proposals: int = 1000
    anchors_sampled: int = 256
    proposals_sampled: int = 512
    box_convolutions: int = 0
    box_features: int = 1024
    mask_convolutions: int = 4
    masks: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "anchor_sizes", tuple(self.anchor_sizes))
        if len(self.anchor_sizes) != 5 or min(self.anchor_sizes) < 1:
            raise CdlError(
                f"anchor sizes {self.anchor_sizes}: five sizes of at least 1 pixel are needed"
            )


# Short edge and longest side in evaluation, in pixels.
EVALUATION_SIZES = {"standard": (800, 1333), "small": (256, 384)}
# `small` can be trained from scratch on two CPU cores.
MODELS = {
    "standard": Architecture(),
    "small": Architecture(
        width=0.25,
        stem="conv1x1",
        norm="GN",
        channels=64,
        anchor_sizes=(8, 16, 32, 64, 128),
        proposals=200,
        anchors_sampled=128,
        proposals_sampled=64,
        box_convolutions=1,
        box_features=256,
        mask_convolutions=2,
    ),
}


@dataclass(frozen=True)
class DetectorConfig:
    """All of a detector but its weights.

    Attributes:
        classes: names, in the order of the labels 1, 2, ...
        domain: input domain, `latent`, `reconstruction` or `image`.
        codec: codec of the input; None for domain `image`.
        architecture: sizes of the network.
    """

    classes: tuple[str, ...]
    domain: str
    codec: CodecChoice | None = None
    architecture: Architecture = MODELS["standard"]

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> DetectorConfig:
        """Build a config from the dict that `dataclasses.asdict` makes of one.

        Raises:
            CdlError: for an unknown domain, or one that does not fit having a codec or none.
            AttributeError, KeyError, TypeError: for any other dict.
        """
        architecture = Architecture(**content["architecture"])
        codec = content["codec"] and CodecChoice(**current_fields(content["codec"]))
        parts = {"classes": tuple(content["classes"]), "codec": codec}
        config = cls(**content | parts | {"architecture": architecture})
        check_domain(config.domain, codec is not None)
        return config


def evaluation_sizes(config: DetectorConfig) -> tuple[int, int]:
    """Return the default short edge and longest side of an image in evaluation, in pixels."""
    return EVALUATION_SIZES["standard" if config.architecture.width == 1 else "small"]


def build_detector(config: DetectorConfig) -> CompressedMaskRCNN:
    """Build a detector with random weights.

    Raises:
        CdlError, FileNotFoundError: if the codec cannot be loaded.
    """
    architecture = config.architecture
    codec, *others = config.codec.load_all() if config.codec else (None,)
    coded_input = CodedInput(config.domain, codec, others=others, with_margin=architecture.margin)
    if config.domain == "latent" and architecture.bridge != FIRST_CONVOLUTION:
        backbone = _build_latent_backbone(architecture, codec)
        levels = backbone.levels
    else:
        backbone, levels = _build_rgb_backbone(architecture), list(STRIDES)[:-1]
        if config.domain == "latent":
            bridge_first_convolution(backbone, codec)
    sizes = architecture.anchor_sizes[-len(levels) - 1 :]
    anchors = AnchorGenerator(tuple((s,) for s in sizes), ((0.5, 1.0, 2.0),) * len(sizes))
    proposals = {
        f"rpn_{when}_nms_top_n_{phase}": architecture.proposals * (1 + (when == "pre"))
        for when in ("pre", "post")
        for phase in ("train", "test")
    }
    box_modules, mask_modules = _build_heads(architecture, levels, 1 + len(config.classes))
    return CompressedMaskRCNN(
        backbone,
        coded_input,
        mask_modules,
        rpn_anchor_generator=anchors,
        box_roi_pool=MultiScaleRoIAlign(levels, output_size=7, sampling_ratio=2),
        rpn_batch_size_per_image=architecture.anchors_sampled,
        box_batch_size_per_image=architecture.proposals_sampled,
        **proposals,
        **box_modules,
    )


def _build_rgb_backbone(architecture: Architecture) -> nn.Module:
    if architecture.width != 1:
        channels = [int(64 * 2**i * architecture.width) * Bottleneck.expansion for i in range(4)]
        levels = {f"layer{i + 1}": str(i) for i in range(4)}
        norm_layer = NORMS[architecture.norm or "BN"]
        resnet = NarrowResNet(architecture.width, norm_layer=norm_layer)
        return BackboneWithFPN(
            resnet, levels, channels, architecture.channels, norm_layer=norm_layer
        )
    norm = {"norm_layer": NORMS[architecture.norm]} if architecture.norm else {}
    return resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=5, **norm)


def _build_latent_backbone(architecture: Architecture, codec: Codec) -> LatentBackboneWithFPN:
    norm = NORMS[architecture.norm] if architecture.norm else None
    if architecture.bridge:
        norm_layer = NORMS[architecture.norm or "FrozenBN"]
        if architecture.width == 1:
            resnet = resnet50(norm_layer=norm_layer)
        else:
            resnet = NarrowResNet(architecture.width, norm_layer=norm_layer)
        body = BridgedBody(codec, resnet, architecture.bridge, norm or NORMS["BN"])
    else:
        body = LatentPyramidTrunk(
            LatentResNet(
                LatentInput(codec.latent_channels, codec.identity),
                stem=architecture.stem,
                width=architecture.width,
                norm=architecture.norm or "BN",
            )
        )
    return LatentBackboneWithFPN(body, architecture.channels, norm)


def _build_heads(
    architecture: Architecture, levels: list[str], num_classes: int
) -> tuple[dict[str, nn.Module], dict[str, nn.Module] | None]:
    """Build box head and mask head (None without masks), by their names in torchvision's weights.

    `num_classes` includes the background.
    """
    channels, features = architecture.channels, architecture.box_features
    norm = NORMS[architecture.norm] if architecture.norm else None
    if architecture.box_convolutions:
        convolutions = [channels] * architecture.box_convolutions
        box_head = FastRCNNConvFCHead((channels, 7, 7), convolutions, [features], norm)
    else:
        box_head = TwoMLPHead(channels * 7 * 7, features)
    box_modules = {
        "box_head": box_head,
        "box_predictor": FastRCNNPredictor(features, num_classes),
    }
    if not architecture.masks:
        return box_modules, None
    convolutions = [channels] * architecture.mask_convolutions
    return box_modules, {
        "mask_roi_pool": MultiScaleRoIAlign(levels, output_size=14, sampling_ratio=2),
        "mask_head": MaskRCNNHeads(channels, convolutions, dilation=1, norm_layer=norm),
        "mask_predictor": MaskRCNNPredictor(channels, channels, num_classes),
    }
