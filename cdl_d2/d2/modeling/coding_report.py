"""What evaluation says of coded images, beside what tasks see in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode

from cdl_d2.codec.learning.perceptual import PerceptualDistance, perceptual_distance
from cdl_d2.metrics.image_quality import psnr_and_ms_ssim
from cdl_d2.nn.input.coded_input import CodedInput


@dataclass(frozen=True)
class CodingReport:
    """Codes an image again, to a file and back.

    Attributes:
        perceptual: a distance; None to leave it out.
    """

    perceptual: PerceptualDistance | None = None

    @classmethod
    def of(cls, cfg: CfgNode) -> CodingReport | None:
        """By TEST.DISTORTION, and MODEL.JOINT.PERCEPTUAL unless that is `none`."""
        if not cfg.TEST.DISTORTION or cfg.INPUT.DOMAIN == "image":
            return None
        joint = cfg.MODEL.JOINT
        if joint.PERCEPTUAL == "none":
            return cls()
        return cls(perceptual_distance(joint.PERCEPTUAL, joint.PERCEPTUAL_FILE))

    @torch.no_grad()
    def __call__(
        self, shown: CodedInput, item: dict[str, Any], device: torch.device
    ) -> dict[str, float | None]:
        """`bits` of the image's file, `psnr` in dB, `ms_ssim` (None below 161 pixels a side) and
        `perceptual`, after rounding to 8 bits; nothing for an item without `image`."""
        if "image" not in item:
            return {}
        codec, image = shown.codec_on(device), shown.swap(item["image"].to(device)).float()
        stream = codec.compress(image / 255)
        decoded = torch.round(codec.decode(codec.decompress(stream).to(device)) * 255)
        psnr, ms_ssim = psnr_and_ms_ssim(image, decoded)
        said: dict[str, float | None] = {
            "bits": 8 * len(stream.to_bytes()),
            "psnr": psnr,
            "ms_ssim": ms_ssim,
        }
        if self.perceptual is not None:
            distance = self.perceptual.to(device)(image[None] / 255, decoded[None] / 255)
            said["perceptual"] = float(distance)
        return said
