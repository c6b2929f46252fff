"""Quality of reconstructed images."""

from __future__ import annotations

import torch

from cdl_d2.codec.learning.distortion import ms_ssim

MS_SSIM_MIN_PIXELS = 161  # per side, for five scales of an 11 x 11 window


def psnr_and_ms_ssim(
    image: torch.Tensor, reconstruction: torch.Tensor
) -> tuple[float, float | None]:
    """Return PSNR in dB and MS-SSIM of a reconstruction, both 3 x H x W in 0..255.

    MS-SSIM is None for images of fewer than 161 pixels per side.
    """
    image, reconstruction = image.float(), reconstruction.float()
    psnr = float(10 * torch.log10(255**2 / (reconstruction - image).square().mean()))
    if min(image.shape[1:]) < MS_SSIM_MIN_PIXELS:
        return psnr, None
    return psnr, float(ms_ssim(image[None] / 255, reconstruction[None] / 255))
