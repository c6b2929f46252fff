"""Networks that read latents."""

from cdl_d2.nn.codec_stamp import CodecStamp
from cdl_d2.nn.coded_input import CodedInput
from cdl_d2.nn.cresnet import CResNet39
from cdl_d2.nn.initialization import initialize_trunk
from cdl_d2.nn.latent_input import LatentInput
from cdl_d2.nn.latent_resnet import LatentClassifier, LatentPyramidTrunk, LatentResNet
from cdl_d2.nn.stage_ends import stage_ends, stage_features

__all__ = [
    "CResNet39",
    "CodecStamp",
    "CodedInput",
    "LatentClassifier",
    "LatentInput",
    "LatentPyramidTrunk",
    "LatentResNet",
    "initialize_trunk",
    "stage_ends",
    "stage_features",
]
