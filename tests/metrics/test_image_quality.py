import pytest
import torch
from pytorch_msssim import ms_ssim

from cdl_d2.metrics.image_quality import psnr_and_ms_ssim

IMAGE = torch.rand(3, 161, 170, generator=torch.Generator().manual_seed(0)).mul(255).round()


def test_values_are_those_of_the_reference():
    reconstruction = (IMAGE + 16).clamp(max=255)
    psnr, similarity = psnr_and_ms_ssim(IMAGE.byte(), reconstruction.byte())
    mse = float((IMAGE - reconstruction).square().mean())
    assert 10 ** (-psnr / 10) == pytest.approx(mse / 255**2, rel=1e-4)
    expected = float(ms_ssim(IMAGE[None], reconstruction[None], data_range=255))
    assert similarity == pytest.approx(expected, abs=1e-5)


def test_small_images_have_no_ms_ssim():
    assert psnr_and_ms_ssim(IMAGE[:, :160], IMAGE[:, :160]) == (float("inf"), None)
