"""Networks that read latents."""

from cdl_d2.nn.codec_stamp import CodecStamp
from cdl_d2.nn.frozen import Frozen
from cdl_d2.nn.initialization import initialize_trunk
from cdl_d2.nn.latent_input import LatentInput
from cdl_d2.nn.latent_resnet import LatentClassifier, LatentPyramidTrunk, LatentResNet

__all__ = [
    "CodecStamp",
    "Frozen",
    "LatentClassifier",
    "LatentInput",
    "LatentPyramidTrunk",
    "LatentResNet",
    "initialize_trunk",
]
