"""Rate and quality of the images that a model encodes in evaluation."""

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
    """Measures the rate and quality of images, each compressed to a file and reconstructed.

    Attributes:
        perceptual: perceptual distance to measure; None for none.
    """

    perceptual: PerceptualDistance | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> CodingReport | None:
        """Build the report of TEST.DISTORTION and MODEL.JOINT.PERCEPTUAL; None if it is off."""
        if not cfg.TEST.DISTORTION or cfg.INPUT.DOMAIN == "image":
            return None
        joint = cfg.MODEL.JOINT
        if joint.PERCEPTUAL == "none":
            return cls()
        return cls(perceptual_distance(joint.PERCEPTUAL, joint.PERCEPTUAL_FILE))

    @torch.no_grad()
    def __call__(
        self, coded_input: CodedInput, sample: dict[str, Any], device: torch.device
    ) -> dict[str, float | None]:
        """Return the measurements of a sample; {} if it has no `image`.

        `bits` of the file, `psnr` in dB, `ms_ssim` (None below 161 pixels per side) and
        `perceptual`, all of pixels rounded to 8 bits.
        """
        if "image" not in sample:
            return {}
        codec = coded_input.codec_on(device)
        image = coded_input.swap(sample["image"].to(device)).float()
        stream = codec.compress(image / 255)
        reconstruction = torch.round(codec.decode(codec.decompress(stream).to(device)) * 255)
        psnr, ms_ssim = psnr_and_ms_ssim(image, reconstruction)
        report: dict[str, float | None] = {
            "bits": 8 * len(stream.to_bytes()),
            "psnr": psnr,
            "ms_ssim": ms_ssim,
        }
        if self.perceptual is not None:
            distance = self.perceptual.to(device)(image[None] / 255, reconstruction[None] / 255)
            report["perceptual"] = float(distance)
        return report
