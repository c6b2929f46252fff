"""Networks that read latents."""

from cdl_d2.nn.bridge import Bridge
from cdl_d2.nn.bridge_fit import fit_bridge
from cdl_d2.nn.codec_stamp import CodecStamp
from cdl_d2.nn.coded_input import CodedInput
from cdl_d2.nn.cresnet import CResNet
from cdl_d2.nn.initialization import initialize_trunk
from cdl_d2.nn.latent_input import LatentInput
from cdl_d2.nn.latent_resnet import LatentClassifier, LatentPyramidTrunk, LatentResNet
from cdl_d2.nn.linear_bridge import LinearBridge, bridge_first_convolution
from cdl_d2.nn.pixel_network import pixel_network
from cdl_d2.nn.stage_ends import stage_ends, stage_features

__all__ = [
    "Bridge",
    "CResNet",
    "CodecStamp",
    "CodedInput",
    "LatentClassifier",
    "LatentInput",
    "LatentPyramidTrunk",
    "LatentResNet",
    "LinearBridge",
    "bridge_first_convolution",
    "fit_bridge",
    "initialize_trunk",
    "pixel_network",
    "stage_ends",
    "stage_features",
]
