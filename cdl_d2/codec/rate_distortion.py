"""Rate and distortion of a codec on images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch

from cdl_d2.codec.bitstream.stream import Bitstream
from cdl_d2.codec.codec import Codec
from cdl_d2.codec.image_files import read_image
from cdl_d2.codec.rates import Rate, rate_of

MS_SSIM_SMALLEST = 161  # pixels a side that five scales of an 11 x 11 window need


@dataclass(frozen=True)
class RatePoint:
    """What an image costs and how it looks: PSNR in dB, MS-SSIM (None below 161 pixels a side)."""

    name: str
    rate: Rate
    psnr: float
    ms_ssim: float | None


def rate_point(codec: Codec, path: Path) -> tuple[Bitstream, RatePoint]:
    """The bitstream of an image file, and its rate and distortion after rounding to 8 bits.

    Raises:
        FileNotFoundError, ValueError: if the image cannot be read.
    """
    device = next(codec.parameters()).device
    original = read_image(path).to(device)
    stream = codec.compress(original.float() / 255)
    latent = codec.decompress(stream)
    decoded = codec.decode(latent.to(device))
    psnr, similarity = distortion(original, torch.round(decoded * 255))
    return stream, RatePoint(path.name, rate_of(stream, latent), psnr, similarity)


@dataclass(frozen=True)
class Averages:
    """Means over images, as rate-distortion curves are usually drawn; rates in bits a pixel."""

    file_bpp: float
    estimated_bpp: float
    file_bits_per_coded_pixel: float
    estimated_bits_per_coded_pixel: float
    psnr: float
    ms_ssim: float | None


def average(points: Sequence[RatePoint]) -> Averages:
    """The mean of each figure over images."""
    similar = [p.ms_ssim for p in points if p.ms_ssim is not None]

    def rate(name: str) -> float:
        return fmean(getattr(p.rate, name) for p in points)

    return Averages(
        file_bpp=rate("file_bpp"),
        estimated_bpp=rate("estimated_bpp"),
        file_bits_per_coded_pixel=rate("file_bits_per_coded_pixel"),
        estimated_bits_per_coded_pixel=rate("estimated_bits_per_coded_pixel"),
        psnr=fmean(p.psnr for p in points),
        ms_ssim=fmean(similar) if similar else None,
    )


def distortion(original: torch.Tensor, decoded: torch.Tensor) -> tuple[float, float | None]:
    """PSNR in dB and MS-SSIM of 3 x H x W images in 0..255."""
    from pytorch_msssim import ms_ssim

    original, decoded = original.float(), decoded.float()
    mse = (decoded - original).square().mean()
    similarity = None
    if min(original.shape[1:]) >= MS_SSIM_SMALLEST:
        similarity = float(ms_ssim(decoded[None], original[None], data_range=255))
    return float(10 * torch.log10(255**2 / mse)), similarity
