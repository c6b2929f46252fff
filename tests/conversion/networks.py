"""Small networks of several libraries, with random weights."""

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import nn
from torchvision import models
from torchvision.models import detection, segmentation
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.ssd import SSD
from torchvision.models.efficientnet import EfficientNet, MBConvConfig
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.ops import MultiScaleRoIAlign

SIDE = 48  # of images
PATCHES_SIDE = 112  # of images in patches of 16 pixels: as many as a fit needs
CLASSES = 3


class Cifar(nn.Module):
    """A network whose first convolution has stride 1."""

    def __init__(self, **options):
        super().__init__()
        options = {"kernel_size": 3, "padding": 1} | options
        self.conv1, self.norm = nn.Conv2d(3, 8, bias=False, **options), nn.BatchNorm2d(8)
        self.layers = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1))
        self.classify = nn.Linear(16, CLASSES)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        feature = self.norm(self.conv1(pixels)).relu()
        for layer in self.layers:
            feature = layer(feature).relu()
        return self.classify(feature.mean((2, 3)))


class Normalized(nn.Module):
    """A network that normalizes its input itself, and whose first convolution is wrapped."""

    def __init__(self, mean: float = 0.5, std: float = 0.25):
        super().__init__()
        self._mean, self._std = mean, std
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.layers = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        self.classify = nn.Linear(16, CLASSES)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        feature = self.layers(self.stem((pixels - self._mean) / self._std))
        return self.classify(feature.mean((2, 3)))


class Trunk(nn.Module):
    """Features at stride 8, as backbones of segmentation models and detectors return them."""

    def __init__(self, channels: int, *names: str):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, 8, 7, 2, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()),
            *(nn.Conv2d(8, channels, 3, 2, 1), nn.ReLU()),
        )
        self.out_channels, self._names = channels, names

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        return dict.fromkeys(self._names, self.layers(pixels))


def resnet() -> nn.Module:
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=CLASSES)


def efficientnet() -> nn.Module:
    settings = [MBConvConfig(1, 3, 1, 8, 8, 1), MBConvConfig(6, 3, 2, 8, 16, 1)]
    return EfficientNet(settings, dropout=0.2, last_channel=32, num_classes=CLASSES)


def convnext() -> nn.Module:
    blocks = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)]
    return models.ConvNeXt(blocks, num_classes=CLASSES)


def vit(side: int = PATCHES_SIDE) -> nn.Module:
    network = models.VisionTransformer(side, 16, 2, 2, 16, 32, num_classes=CLASSES)
    nn.init.normal_(network.heads.head.weight)
    return network


def swin() -> nn.Module:
    return models.SwinTransformer(
        [4, 4], 16, depths=[1, 1], num_heads=[1, 2], window_size=[3, 3], num_classes=CLASSES
    )


SIZES = {"min_size": 48, "max_size": 80}
ANCHORS = {"sizes": ((16, 32),), "aspect_ratios": ((1.0,),)}


def region_detector(kind: type = detection.FasterRCNN, **options) -> nn.Module:
    return kind(
        Trunk(8, "0"),
        rpn_anchor_generator=AnchorGenerator(**ANCHORS),
        box_roi_pool=MultiScaleRoIAlign(["0"], 3, 2),
        box_head=TwoMLPHead(8 * 9, 16),
        box_predictor=FastRCNNPredictor(16, CLASSES),
        rpn_post_nms_top_n_test=50,
        **SIZES | options,
    )


def mask_rcnn() -> nn.Module:
    heads = {"mask_head": MaskRCNNHeads(8, (8,), 1), "mask_predictor": MaskRCNNPredictor(8, 8, 3)}
    pool = MultiScaleRoIAlign(["0"], 6, 2)
    return region_detector(detection.MaskRCNN, mask_roi_pool=pool, **heads)


def keypoint_rcnn() -> nn.Module:
    return region_detector(
        detection.KeypointRCNN,
        keypoint_roi_pool=MultiScaleRoIAlign(["0"], 6, 2),
        keypoint_head=KeypointRCNNHeads(8, (8,)),
        keypoint_predictor=KeypointRCNNPredictor(8, 4),
    )


def retinanet() -> nn.Module:
    return detection.RetinaNet(
        Trunk(8, "0"), CLASSES, anchor_generator=AnchorGenerator(**ANCHORS), **SIZES
    )


def fcos() -> nn.Module:
    anchors = AnchorGenerator(((16,),), ((1.0,),))
    return detection.FCOS(Trunk(32, "0"), CLASSES, anchor_generator=anchors, **SIZES)


def ssd() -> nn.Module:
    anchors = DefaultBoxGenerator([[2]], scales=[0.2, 0.4])
    trunk = Trunk(8, "0")
    trunk.out_channels = [8]
    return SSD(trunk, anchors, (SIDE, SIDE), CLASSES)


def timm_network(name: str, **options) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import timm

        return timm.create_model(name, num_classes=CLASSES, **options)

    return build


def transformers_vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(
        ViTConfig(
            **{"hidden_size": 16, "intermediate_size": 32, "image_size": PATCHES_SIDE},
            **{"num_hidden_layers": 2, "num_attention_heads": 2, "num_labels": CLASSES},
        )
    )


def detr() -> nn.Module:
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic",
        out_features=["stage2"],
    )  # fmt: skip
    sides = ("encoder", "decoder")
    config = DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
        backbone_config=backbone, d_model=16, num_queries=4, num_labels=CLASSES,
        **{f"{side}_layers": 1 for side in sides}, **{f"{side}_ffn_dim": 16 for side in sides},
        **{f"{side}_attention_heads": 2 for side in sides},
    )  # fmt: skip
    return DetrForObjectDetection(config)


CLASSIFIERS = {
    "resnet": resnet,
    "mobilenet_v2": lambda: models.mobilenet_v2(num_classes=CLASSES, width_mult=0.1),
    "efficientnet": efficientnet,
    "convnext": convnext,
    "swin": swin,
    "cifar": Cifar,
    "normalized": Normalized,
    "unpadded": lambda: Cifar(kernel_size=7, stride=2, padding=0),
}
SEGMENTORS = {
    "fcn": lambda: segmentation.FCN(Trunk(8, "out"), FCNHead(8, CLASSES)),
    "lraspp": lambda: segmentation.LRASPP(Trunk(8, "low", "high"), 8, 8, CLASSES),
}
DETECTORS = {
    "faster_rcnn": region_detector,
    "mask_rcnn": mask_rcnn,
    "keypoint_rcnn": keypoint_rcnn,
    "retinanet": retinanet,
    "fcos": fcos,
}
OF_PATCHES = {"vit": vit}
if find_spec("timm"):
    CLASSIFIERS |= {
        "timm_resnet": timm_network("test_resnet"),
        "timm_efficientnet": timm_network("test_efficientnet", pad_type="same"),
        "timm_convnext": timm_network("test_convnext"),
    }
    OF_PATCHES |= {
        "timm_vit": timm_network("test_vit", img_size=PATCHES_SIDE),
        "timm_swin": timm_network(
            "swin_tiny_patch4_window7_224",
            **{"img_size": PATCHES_SIDE, "window_size": 7, "embed_dim": 8},
            **{"depths": (1, 1), "num_heads": (1, 1)},
        ),
    }
if find_spec("transformers"):
    OF_PATCHES |= {"transformers_vit": transformers_vit}
    SEGMENTORS |= {"detr": detr}
ANY_SIZE = CLASSIFIERS | SEGMENTORS | DETECTORS
