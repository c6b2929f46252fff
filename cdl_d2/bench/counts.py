"""Multiply-adds of the parts of a compressed-domain model, counted with fvcore."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from cdl_d2.bench.multiply_adds import count_network
from cdl_d2.codec import cell_size
from cdl_d2.codec.codec import UNTRAINED
from cdl_d2.d2.config import without_start
from cdl_d2.d2.engine.tasks import task_of
from cdl_d2.d2.modeling.backbone import build_backbone
from cdl_d2.d2.modeling.coded_input import build_codec
from cdl_d2.d2.modeling.teacher import teacher_config
from cdl_d2.errors import CdlError
from cdl_d2.nn.bridge import Bridge
from cdl_d2.nn.linear_bridge import LinearBridge

if TYPE_CHECKING:
    from detectron2.config import CfgNode

# Table 2 of *Learning in Compressed Domain via Knowledge Transfer*. Its decoders count every
# transposed convolution four times.
PAPER_SIZE = (800, 1280)
PAPER_BACKBONE_GIGA = {"student_backbone": 155.25, "teacher_backbone": 137.15}
PAPER_BACKBONE = "build_latent_resnet_fpn_backbone"
PAPER_DECODER_GIGA = {"bmshj2018-hyperprior": 156.41, "mbt2018": 337.05}


def paper_giga(cfg: CfgNode, part: str, size: tuple[int, int]) -> float | None:
    """What that paper reports for a part of its standard model, in 10^9; None if nothing."""
    resnet, codec = cfg.MODEL.LATENT_RESNET, cfg.MODEL.CODEC
    blocks = (*resnet.CONV4_BLOCKS, resnet.CONV5_BLOCKS)
    standard = (resnet.STEM, resnet.WIDTH, blocks) == ("residual", 1.0, (3, 4, 6, 3))
    if size != PAPER_SIZE or not standard or codec.QUALITY > 4 or cfg.MODEL.FPN.OUT_CHANNELS != 256:
        return None  # from quality 5 or 6 on, codecs are wider
    if part == "codec_decoder":
        return PAPER_DECODER_GIGA.get(cfg.MODEL.CODEC.NAME)
    if part == "student_backbone" and cfg.MODEL.BACKBONE.NAME != PAPER_BACKBONE:
        return None
    return PAPER_BACKBONE_GIGA.get(part) if cfg.INPUT.DOMAIN == "latent" else None


def count_multiply_adds(cfg: CfgNode, size: tuple[int, int]) -> dict[str, int]:
    """Multiply-adds of convolutions and linear layers, plus one a normalized element.

    Weights do not matter and are not loaded. The codec is counted on the image's own cells; coding
    pads an image to a multiple of 64, which adds its share.

    Args:
        size: height and width of the image in pixels, multiples of 32.

    Returns:
        `student_backbone` and, where the config has them, `bridge` (a part of it),
        `teacher_backbone`, `codec_encoder` (g_a, h_a and h_s, all that encoding to a latent runs)
        and `codec_decoder` (g_s).

    Raises:
        CdlError: if the size is not a positive multiple of 32, or for a classifier.
    """
    if task_of(cfg).name == "classification":
        raise CdlError("the parts of detectors and segmentors are counted, not of classifiers")
    if min(size) < 32 or size[0] % 32 or size[1] % 32:
        raise CdlError(f"size {size[0]} {size[1]}: both sides must be positive multiples of 32")
    cfg = without_start(cfg)
    cfg.MODEL.CODEC.WEIGHTS = UNTRAINED
    image = torch.zeros(1, 3, *size)
    counts = {}
    if cfg.INPUT.DOMAIN == "latent":
        latent = torch.zeros(1, build_codec(cfg).latent_channels, *cell_size(size))
        student = build_backbone(cfg)
        counts["student_backbone"] = count_network(student, latent)
        for bridge in [m for m in student.modules() if isinstance(m, (Bridge, LinearBridge))]:
            counts["bridge"] = count_network(bridge, latent)
    else:
        counts["student_backbone"] = count_network(build_backbone(cfg), image)
    if cfg.MODEL.TEACHER.CONFIG_FILE:
        counts["teacher_backbone"] = count_network(build_backbone(teacher_config(cfg)), image)
    if cfg.INPUT.DOMAIN != "image":
        counts |= _count_codec(build_codec(cfg).network, image)
    return counts


def _count_codec(network: nn.Module, image: torch.Tensor) -> dict[str, int]:
    with torch.no_grad():
        y = network.g_a(image)
        encoder = count_network(network.g_a, image)
        if hasattr(network, "h_a"):
            encoder += count_network(network.h_a, y)
            encoder += count_network(network.h_s, network.h_a(y))
    return {"codec_encoder": encoder, "codec_decoder": count_network(network.g_s, y)}
