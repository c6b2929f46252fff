"""Networks of classifiers: latent models, RGB models, and RGB models behind a bridge."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from torch import nn

from cdl_d2.codec.io.state_dicts import fit_names, load_into
from cdl_d2.codec.io.weights_file import load_state_dict
from cdl_d2.codec.latent import latent_grid
from cdl_d2.d2.model_input import architecture_of, build_codec
from cdl_d2.d2.modeling.backbone.bridged_backbone import BRIDGE_ADVICE, FIRST_CONVOLUTION
from cdl_d2.d2.modeling.backbone.initialization import initialize
from cdl_d2.d2.modeling.backbone.latent_resnet import build_latent_resnet
from cdl_d2.d2.modeling.teacher import build_teacher
from cdl_d2.errors import CdlError, with_advice
from cdl_d2.nn import CResNet, LatentClassifier, LatentInput
from cdl_d2.nn.backbones.resnet import NarrowResNet
from cdl_d2.nn.backbones.rgb_model import build_rgb_model, find_resnet_weights
from cdl_d2.nn.bridge.linear_bridge import bridge_first_convolution

CRESNETS = {  # arguments of CResNet
    "cresnet39": {},
    "cresnet51": {"entrance": False, "with_scales": False, "conv4_blocks": 10},
}
LATENT_NETWORKS = ("latent_resnet", *CRESNETS)


def build_classifier_network(cfg: CfgNode) -> nn.Module:
    """Build the network of MODEL.CLASSIFIER for INPUT.DOMAIN, initialized from its INIT.

    On latents, an RGB model gets a linear bridge in place of its first convolution.

    Raises:
        CdlError: for an unknown network, or one that does not take INPUT.DOMAIN.
    """
    keys, domain, size = cfg.MODEL.CLASSIFIER, cfg.INPUT.DOMAIN, cfg.INPUT.IMAGE_SIZE
    if keys.NETWORK in LATENT_NETWORKS:
        if domain != "latent":
            raise CdlError(
                f"MODEL.CLASSIFIER.NETWORK {keys.NETWORK!r} reads latents, not domain {domain!r}: "
                "set INPUT.DOMAIN latent"
            )
        return _latent_network(cfg)
    network = _rgb_network(cfg)
    if domain == "latent":
        bridge = cfg.MODEL.BRIDGE
        if bridge.ENTRY != FIRST_CONVOLUTION:
            raise CdlError(
                f"MODEL.BRIDGE.ENTRY {bridge.ENTRY!r} of a classifier is not {FIRST_CONVOLUTION}"
            )
        codec = build_codec(cfg)
        with with_advice(BRIDGE_ADVICE):
            bridge_first_convolution(network, codec, bridge.WIDTH or None, bridge.STRIDE)
        initialize(network, cfg)
        if size:
            latent = torch.zeros(1, codec.latent_channels, *latent_grid(2 * (size,)))
            _check_runs(network, latent, keys)
    return network


@torch.no_grad()
def _check_runs(network: nn.Module, latent: torch.Tensor, keys: CfgNode) -> None:
    """Raise CdlError if a network with a bridge does not run on latents."""
    was_training = network.training
    try:
        network.eval()(latent)
    except (AssertionError, IndexError, RuntimeError, TypeError) as error:
        raise CdlError(
            f"MODEL.CLASSIFIER.NETWORK {keys.NETWORK} does not run on latents of "
            f"{latent.shape[2]} x {latent.shape[3]} positions ({error}): check "
            "INPUT.IMAGE_SIZE, or take another"
        ) from error
    network.train(was_training)


def _latent_network(cfg: CfgNode) -> LatentClassifier:
    classifier = cfg.MODEL.CLASSIFIER
    if classifier.NETWORK == "latent_resnet":
        if classifier.INIT:
            raise CdlError("MODEL.CLASSIFIER.INIT is not for latent_resnet: use LATENT_RESNET.INIT")
        return LatentClassifier(build_latent_resnet(cfg), classifier.NUM_CLASSES)
    codec, resnet = build_codec(cfg), cfg.MODEL.LATENT_RESNET
    if resnet.INIT:
        raise CdlError(
            f"MODEL.LATENT_RESNET.INIT is not for {classifier.NETWORK}: use CLASSIFIER.INIT"
        )
    options = {"with_scales": classifier.SCALES, "log_scales": classifier.LOG_SCALES}
    options |= CRESNETS[classifier.NETWORK]
    if options["with_scales"] and not codec.predicts_scales:
        raise CdlError(
            f"{codec.name} predicts no scales: set MODEL.CLASSIFIER.SCALES False, or another codec"
        )
    trunk = CResNet(
        LatentInput(codec.latent_channels, codec.identity),
        width=resnet.WIDTH,
        norm=resnet.NORM,
        **options,
    )
    if classifier.INIT:
        trunk.load_resnet50(find_resnet_weights("resnet50", classifier.INIT))
    initialize(trunk, cfg)
    return LatentClassifier(trunk, classifier.NUM_CLASSES)


def build_classifier_teacher(cfg: CfgNode) -> nn.Module:
    """Build the RGB model of MODEL.TEACHER, with its weights.

    Raises:
        FileNotFoundError: if its config or weights do not exist.
        CdlError: if none is named, or it is no classifier of images with as many classes.
    """
    teacher, classes = cfg.MODEL.TEACHER, cfg.MODEL.CLASSIFIER.NUM_CLASSES
    if not teacher.CONFIG_FILE:
        if not teacher.WEIGHTS:
            raise CdlError(
                "knowledge transfer needs a teacher: give MODEL.TEACHER.CONFIG_FILE, or in "
                "MODEL.TEACHER.WEIGHTS a ResNet-50 of torchvision"
            )
        path = find_resnet_weights("resnet50", teacher.WEIGHTS)
        state = fit_names(load_state_dict(path), ["fc.weight"])
        head = state.get("fc.weight")
        network = build_rgb_model("resnet50", 1000 if head is None else len(head))
        load_into(network, state, path, strict_modules=())
        _check_classes(classes, network.fc.out_features)
        return network
    return build_teacher(cfg, _check_configs).network


def _check_configs(student: CfgNode, teacher: CfgNode) -> None:
    if not hasattr(architecture_of(teacher), "logits"):
        raise CdlError(
            f"the teacher is a {teacher.MODEL.META_ARCHITECTURE}, not a classifier of images: take "
            "a CompressedClassifier of INPUT.DOMAIN image"
        )
    _check_classes(student.MODEL.CLASSIFIER.NUM_CLASSES, teacher.MODEL.CLASSIFIER.NUM_CLASSES)


def _check_classes(student: int, teacher: int) -> None:
    if student != teacher:
        raise CdlError(f"the teacher has {teacher} classes, the student {student}: train a teacher")


def _rgb_network(cfg: CfgNode) -> nn.Module:
    keys = cfg.MODEL.CLASSIFIER
    if keys.WIDTH == 1:
        with with_advice("check MODEL.CLASSIFIER.NETWORK and MODEL.CLASSIFIER.INIT"):
            return build_rgb_model(keys.NETWORK, keys.NUM_CLASSES, keys.INIT)
    if keys.NETWORK != "resnet50" or keys.INIT:
        raise CdlError(
            f"MODEL.CLASSIFIER.WIDTH {keys.WIDTH} is for resnet50 without INIT, not for "
            f"{keys.NETWORK} with INIT {keys.INIT!r}"
        )
    return NarrowResNet(keys.WIDTH, keys.NUM_CLASSES)
