"""Multiply-adds of the parts of a latent model, counted with fvcore."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from cdl_d2.bench.multiply_adds import count_network
from cdl_d2.codec import Codec, latent_grid
from cdl_d2.codec.networks import UNTRAINED
from cdl_d2.d2.building import naming_config
from cdl_d2.d2.config import without_initialization
from cdl_d2.d2.model_input import ModelTraits, build_codec
from cdl_d2.d2.modeling.backbone import build_backbone
from cdl_d2.d2.modeling.classifier_networks import build_classifier_network
from cdl_d2.d2.modeling.teacher import build_untrained_teacher, is_lazy, teacher_config
from cdl_d2.d2.tasks import get_task
from cdl_d2.errors import CdlError
from cdl_d2.nn.backbones.rgb_model import build_rgb_model
from cdl_d2.nn.bridge.input_adapter import InputAdapter, set_margin
from cdl_d2.nn.input.coded_input import MARGIN

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from cdl_d2.d2.lazy_config import LazyModel

# Image sizes in tables 1 and 2 of *Learning in Compressed Domain via Knowledge Transfer*, pixels.
DETECTION_SIZE = (800, 1280)
CLASSIFICATION_SIDE = 256


def usual_size(cfg: CfgNode) -> tuple[int, int]:
    """Return the default image size, (H, W) in pixels, for counting a model's parts."""
    if get_task(cfg).name != "classification":
        return DETECTION_SIZE
    return 2 * (cfg.INPUT.IMAGE_SIZE or CLASSIFICATION_SIDE,)


def count_multiply_adds(cfg: CfgNode, size: tuple[int, int]) -> dict[str, int]:
    """Count multiply-adds of convolutions and linear layers, plus one per normalized element.

    Weights are not loaded. The codec is counted without the padding of images to multiples of 64. A
    classifier with INPUT.AUGMENTATION latent is counted on the positions that it crops.

    Args:
        cfg: config of the model.
        size: height and width of the image in pixels, multiples of 32.

    Returns:
        counts by part: `student_backbone`, `teacher_backbone` and `bridge` (a part of the
        student's), of a classifier `student_network` and `teacher_network`; `codec_encoder` (g_a,
        h_a and h_s) and `codec_decoder` (g_s). Parts that the model lacks are left out.

    Raises:
        CdlError: if the size is not a positive multiple of 32.
    """
    _check_size(size)
    cfg = without_initialization(cfg)
    cfg.MODEL.CODEC.WEIGHTS = UNTRAINED
    cfg.MODEL.CLASSIFIER.INIT, cfg.MODEL.DEVICE = "", "cpu"
    classifies = get_task(cfg).name == "classification"
    kind = "network" if classifies else "backbone"
    build = build_classifier_network if classifies else build_backbone
    image = torch.zeros(1, 3, *size)
    with naming_config(cfg):
        student = build(cfg)
    inputs = _latents(cfg, size) if cfg.INPUT.DOMAIN == "latent" else [image]
    bridges = [m for m in student.modules() if isinstance(m, InputAdapter)]
    if bridges and cfg.MODEL.BRIDGE.MARGIN:
        set_margin(student, MARGIN)
        inputs = [_with_margin(latent, MARGIN) for latent in inputs]
    counts = {f"student_{kind}": count_network(student, *inputs)}
    for bridge in bridges:
        counts["bridge"] = count_network(bridge, *inputs)
    if cfg.MODEL.TEACHER.CONFIG_FILE:
        lazy = is_lazy(cfg)
        network = build_untrained_teacher(cfg).backbone if lazy else build(teacher_config(cfg))
        counts[f"teacher_{kind}"] = count_network(network, image)
    elif classifies and cfg.MODEL.TEACHER.WEIGHTS:
        teacher = build_rgb_model("resnet50", cfg.MODEL.CLASSIFIER.NUM_CLASSES)
        counts[f"teacher_{kind}"] = count_network(teacher, image)
    if cfg.INPUT.DOMAIN != "image":
        counts |= _count_codec(build_codec(cfg), image)
    return counts


def count_lazy_model(lazy: LazyModel, size: tuple[int, int]) -> dict[str, int]:
    """Count the parts of the model of a LazyConfig as count_multiply_adds does.

    Returns:
        counts of the `student_backbone`; with a `bridge`, of it and of the `teacher_backbone`, the
        RGB model's; and of the codec.

    Raises:
        CdlError: if the size is not a positive multiple of 32.
    """
    _check_size(size)
    lazy, image = lazy.with_untrained_codec(), torch.zeros(1, 3, *size)
    model = lazy.build()
    coded_input = getattr(model, "coded_input", None)
    codec, inputs = getattr(coded_input, "codec", None), image
    if codec is not None:
        inputs = torch.zeros(1, codec.latent_channels, *latent_grid(size))
        inputs = _with_margin(inputs, coded_input.margin)
    counts = {"student_backbone": count_network(model.backbone, inputs)}
    for bridge in [m for m in model.backbone.modules() if isinstance(m, InputAdapter)]:
        counts["bridge"] = count_network(bridge, inputs)
        backbone = lazy.rgb_version().build_backbone()
        counts["teacher_backbone"] = count_network(backbone, image)
    return counts | ({} if codec is None else _count_codec(codec, image))


def _check_size(size: tuple[int, int]) -> None:
    if min(size) < 32 or size[0] % 32 or size[1] % 32:
        raise CdlError(f"size {size[0]} {size[1]}: both sides must be positive multiples of 32")


def _latents(cfg: CfgNode, size: tuple[int, int]) -> list[torch.Tensor]:
    """Return inputs of a latent network: the latent, and scales if the network reads them."""
    cells = latent_grid(size)
    if get_task(cfg).name == "classification" and cfg.INPUT.AUGMENTATION == "latent":
        cells = 2 * (cfg.INPUT.LATENT_CROP,)
    latent = torch.zeros(1, build_codec(cfg).latent_channels, *cells)
    with_scales = ModelTraits.from_config(cfg).reads_scales
    return [latent, latent] if with_scales else [latent]


def _with_margin(latent: torch.Tensor, margin: int) -> torch.Tensor:
    return F.pad(latent, (0, margin, 0, margin))


def _count_codec(codec: Codec, image: torch.Tensor) -> dict[str, int]:
    network = codec.network
    with torch.no_grad():
        y = network.g_a(image)
        encoder = count_network(network.g_a, image)
        if codec.predicts_scales:
            h_a, h_s = codec.coder.hyperprior_transforms
            encoder += count_network(h_a, y) + count_network(h_s, h_a(y))
    return {"codec_encoder": encoder, "codec_decoder": count_network(network.g_s, y)}
