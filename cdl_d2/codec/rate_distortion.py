"""Rate and distortion of a codec on a folder of images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from cdl_d2.codec.codec import Codec
from cdl_d2.codec.training import IMAGE_SUFFIXES

MS_SSIM_SMALLEST = 161  # pixels a side that five scales of an 11 x 11 window need


@dataclass(frozen=True)
class RatePoint:
    """Estimated bits per pixel, PSNR in dB, and MS-SSIM (None below 161 pixels a side)."""

    name: str
    bpp: float
    psnr: float
    ms_ssim: float | None


def rate_points(codec: Codec, folder: Path, device: str = "cpu") -> Iterator[RatePoint]:
    """One point an image, in the order of names; reconstructions are rounded to 8 bits.

    Raises:
        ValueError: if the folder has no image.
    """
    from pytorch_msssim import ms_ssim

    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise ValueError(f"no image ({', '.join(sorted(IMAGE_SUFFIXES))}) under {folder}")
    codec.to(device)
    for path in paths:
        with Image.open(path) as file:
            original = pil_to_tensor(file.convert("RGB")).to(device).float()
        latent = codec.encode(original / 255)
        decoded = torch.round(codec.decode(latent) * 255)
        mse = (decoded - original).square().mean()
        similarity = None
        if min(original.shape[1:]) >= MS_SSIM_SMALLEST:
            similarity = float(ms_ssim(decoded[None], original[None], data_range=255))
        psnr = float(10 * torch.log10(255**2 / mse))
        yield RatePoint(path.name, latent.bits_per_pixel, psnr, similarity)


def average(points: list[RatePoint]) -> RatePoint:
    """The mean of each figure over images, as rate-distortion curves are usually drawn."""
    similar = [p.ms_ssim for p in points if p.ms_ssim is not None]
    return RatePoint(
        name="average",
        bpp=sum(p.bpp for p in points) / len(points),
        psnr=sum(p.psnr for p in points) / len(points),
        ms_ssim=sum(similar) / len(similar) if similar else None,
    )
