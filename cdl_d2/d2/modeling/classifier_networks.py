"""The networks of classifiers: on latents, and torchvision's on pixels."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision
from detectron2.config import CfgNode
from torch import nn

from cdl_d2.codec.weights_file import load_state_dict
from cdl_d2.d2.modeling.backbone.latent_resnet import build_latent_resnet
from cdl_d2.d2.modeling.coded_input import architecture_of, build_codec
from cdl_d2.d2.modeling.teacher import build_teacher
from cdl_d2.errors import CdlError
from cdl_d2.nn import CResNet39, LatentClassifier, LatentInput
from cdl_d2.nn.narrow_resnet import NarrowResNet

LATENT_NETWORKS = ("latent_resnet", "cresnet39")
PIXEL_NETWORKS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
IMAGENET = "imagenet"  # instead of a file: the weights of torchvision's zoo


def build_classifier_network(cfg: CfgNode) -> nn.Module:
    """The network of MODEL.CLASSIFIER for INPUT.DOMAIN, started from its INIT.

    Raises:
        CdlError: for an unknown network, or one of another domain; see Codec.load.
    """
    classifier, domain = cfg.MODEL.CLASSIFIER, cfg.INPUT.DOMAIN
    known = LATENT_NETWORKS if domain == "latent" else PIXEL_NETWORKS
    if classifier.NETWORK not in known:
        raise CdlError(
            f"MODEL.CLASSIFIER.NETWORK {classifier.NETWORK!r} is not one of {', '.join(known)}, "
            f"which read domain {domain!r}"
        )
    if domain != "latent":
        return _pixel_network(cfg)
    if classifier.NETWORK == "latent_resnet":
        if classifier.INIT:
            raise CdlError("MODEL.CLASSIFIER.INIT is not for latent_resnet: use LATENT_RESNET.INIT")
        return LatentClassifier(build_latent_resnet(cfg), classifier.NUM_CLASSES)
    codec, resnet = build_codec(cfg), cfg.MODEL.LATENT_RESNET
    if resnet.INIT:
        raise CdlError("MODEL.LATENT_RESNET.INIT is not for cresnet39: use CLASSIFIER.INIT")
    if classifier.SCALES and not codec.predicts_scales:
        raise CdlError(
            f"{codec.name} predicts no scales: set MODEL.CLASSIFIER.SCALES False, or another codec"
        )
    trunk = CResNet39(
        LatentInput(codec.latent_channels, codec.identity),
        with_scales=classifier.SCALES,
        width=resnet.WIDTH,
        norm=resnet.NORM,
    )
    if classifier.INIT:
        trunk.load_resnet50(_resnet_file("resnet50", classifier.INIT))
    return LatentClassifier(trunk, classifier.NUM_CLASSES)


def build_classifier_teacher(cfg: CfgNode) -> nn.Module:
    """The pixel ResNet that MODEL.TEACHER names, with all its weights.

    Raises:
        FileNotFoundError: if its config or weights do not exist.
        CdlError: if it is not named, has another number of classes, or is no pixel classifier.
    """
    teacher, classes = cfg.MODEL.TEACHER, cfg.MODEL.CLASSIFIER.NUM_CLASSES
    if not teacher.CONFIG_FILE:
        if not teacher.WEIGHTS:
            raise CdlError(
                "knowledge transfer needs a teacher: give MODEL.TEACHER.CONFIG_FILE, or in "
                "MODEL.TEACHER.WEIGHTS a ResNet-50 of torchvision"
            )
        path = _resnet_file("resnet50", teacher.WEIGHTS)
        head = load_state_dict(path).get("fc.weight")
        network = torchvision.models.resnet50(num_classes=1000 if head is None else len(head))
        _load_resnet(network, path, strict=True)
        _check_classes(classes, network.fc.out_features)
        return network
    return build_teacher(cfg, _check_configs).network


def _check_configs(ours: CfgNode, theirs: CfgNode) -> None:
    if not hasattr(architecture_of(theirs), "logits"):
        raise CdlError(
            f"the teacher is a {theirs.MODEL.META_ARCHITECTURE}, which gives no classes of whole "
            "images: take a CompressedClassifier of INPUT.DOMAIN image"
        )
    _check_classes(ours.MODEL.CLASSIFIER.NUM_CLASSES, theirs.MODEL.CLASSIFIER.NUM_CLASSES)


def _check_classes(ours: int, theirs: int) -> None:
    if ours != theirs:
        raise CdlError(f"the teacher knows {theirs} classes, the student {ours}: train a teacher")


def _pixel_network(cfg: CfgNode) -> nn.Module:
    keys = cfg.MODEL.CLASSIFIER
    if keys.NETWORK not in PIXEL_NETWORKS:
        raise CdlError(
            f"MODEL.CLASSIFIER.NETWORK {keys.NETWORK!r} is not one of {', '.join(PIXEL_NETWORKS)}"
        )
    if keys.WIDTH != 1:
        if keys.NETWORK != "resnet50" or keys.INIT:
            raise CdlError(
                f"MODEL.CLASSIFIER.WIDTH {keys.WIDTH} is for resnet50 without INIT, not for "
                f"{keys.NETWORK} with INIT {keys.INIT!r}"
            )
        return NarrowResNet(keys.WIDTH, keys.NUM_CLASSES)
    network = getattr(torchvision.models, keys.NETWORK)(num_classes=keys.NUM_CLASSES)
    if keys.INIT:
        _load_resnet(network, _resnet_file(keys.NETWORK, keys.INIT), strict=False)
    return network


def _load_resnet(network: nn.Module, path: str, strict: bool) -> None:
    """Load a ResNet's weights; without `strict`, all but a head of another number of classes."""
    state, own = load_state_dict(path), network.state_dict()
    wrong = [k for k, v in own.items() if k not in state or state[k].shape != v.shape]
    heads = [] if strict else [k for k in wrong if k.startswith("fc.")]
    if wrong and wrong != heads:
        other = network.fc.out_features, state["fc.weight"].shape[0] if "fc.weight" in state else 0
        raise CdlError(
            f"{path} does not fit this ResNet: it lacks {wrong[0]}, or has it in another shape "
            f"({other[1]} classes there, {other[0]} here)"
        )
    network.load_state_dict({k: v for k, v in state.items() if k not in heads}, strict=False)


def _resnet_file(name: str, source: str) -> str:
    """A file with torchvision's weights; `imagenet` downloads and checks those of the zoo."""
    if source != IMAGENET:
        return source
    url = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url
    torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    return str(Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1])
