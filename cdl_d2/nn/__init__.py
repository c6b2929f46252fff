"""Networks that read latents."""

from cdl_d2.nn.backbones.cresnet import CResNet
from cdl_d2.nn.backbones.initialization import initialize_trunk
from cdl_d2.nn.backbones.resnet import LatentClassifier, LatentPyramidTrunk, LatentResNet
from cdl_d2.nn.backbones.rgb_model import build_rgb_model
from cdl_d2.nn.backbones.stage_ends import stage_ends, stage_features
from cdl_d2.nn.bridge.bridge import Bridge
from cdl_d2.nn.bridge.bridge_fit import fit_bridge
from cdl_d2.nn.bridge.linear_bridge import LinearBridge, bridge_first_convolution
from cdl_d2.nn.input.codec_stamp import CodecStamp
from cdl_d2.nn.input.coded_input import CodedInput
from cdl_d2.nn.input.latent_input import LatentInput

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
    "build_rgb_model",
    "fit_bridge",
    "initialize_trunk",
    "stage_ends",
    "stage_features",
]
