"""Distortion between images and reconstructions, as a loss.

Shapes: N x 3 x H x W, RGB in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from cdl_d2.codec.learning.perceptual import PerceptualDistance
from cdl_d2.errors import CdlError

# *Multiscale structural similarity for image quality assessment*, finest scale first.
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW_PIXELS = 11  # per side
MIN_CONTRAST = 1e-6  # powers of 0 or less have no gradient


@dataclass
class DistortionTerms:
    """Means over a batch; all but `total` are unweighted.

    Attributes:
        total: weighted sum d.
        mae: mean absolute error.
        ssim: 1 - MS-SSIM.
        perceptual: perceptual distance d_p; None without a network.
    """

    total: torch.Tensor
    mae: torch.Tensor
    ssim: torch.Tensor
    perceptual: torch.Tensor | None


class Distortion(nn.Module):
    """Weighted distortion d = k_MAE d_MAE + k_SSIM (1 - MS-SSIM) + k_p d_p.

    *Analysis on Compressed Domain: A Multi-Task Learning Approach*, which does not give the
    weights. The network of d_p is not part of the parameters and the state.

    Args:
        mae: k_MAE.
        ssim: k_SSIM.
        perceptual: k_p.
        network: d_p; None to leave the term out.

    Raises:
        CdlError: for a negative weight, or a weight k_p without a network.
    """

    def __init__(
        self,
        mae: float,
        ssim: float,
        perceptual: float = 0.0,
        network: PerceptualDistance | None = None,
    ):
        super().__init__()
        for name, weight in (("mae", mae), ("ssim", ssim), ("perceptual", perceptual)):
            if not weight >= 0:
                raise CdlError(f"the weight {weight} of the distortion {name!r} is not 0 or more")
        if perceptual and network is None:
            raise CdlError(f"a perceptual distortion of weight {perceptual} needs a network")
        self._weights = mae, ssim, perceptual
        self._network = [network]  # in a list: not registered as a submodule

    def forward(self, x: torch.Tensor, x_hat: torch.Tensor) -> DistortionTerms:
        """Return the distortion of reconstructions, whose values may lie outside [0, 1].

        Raises:
            CdlError: as `ms_ssim`.
        """
        mae, ssim = (x - x_hat).abs().mean(), 1 - ms_ssim(x, x_hat).mean()
        total = self._weights[0] * mae + self._weights[1] * ssim
        perceptual = None
        if self._network[0] is not None:
            perceptual = self._network[0].to(x.device)(x, x_hat).mean()
            total = total + self._weights[2] * perceptual
        return DistortionTerms(total, mae, ssim, perceptual)


def ms_ssim(x: torch.Tensor, x_hat: torch.Tensor) -> torch.Tensor:
    """Return the MS-SSIM of each image, N.

    The original has five scales, each half the size of the previous one, and windows of 11 pixels,
    which requires 161 pixels per side. Smaller images have fewer scales: four from 81 pixels, three
    from 41, two from 21, with weights normalized to a sum of 1. Contrasts below 1e-6 count as 1e-6,
    for a gradient where contrasts are opposite.

    Raises:
        CdlError: for images of fewer than 11 pixels per side, or of two sizes.
    """
    # The public functions of pytorch_msssim support five scales only.
    from pytorch_msssim.ssim import _fspecial_gauss_1d, _ssim

    side = min(x.shape[2:])
    if x.shape != x_hat.shape or side < WINDOW_PIXELS:
        raise CdlError(
            f"images of {tuple(x.shape)} and {tuple(x_hat.shape)} cannot be compared by MS-SSIM: "
            f"they must have one size of at least {WINDOW_PIXELS} pixels per side"
        )
    scales = 1 + sum(side > (WINDOW_PIXELS - 1) * 2**i for i in range(1, len(SCALE_WEIGHTS)))
    weights = x.new_tensor(SCALE_WEIGHTS[:scales])
    window = _fspecial_gauss_1d(WINDOW_PIXELS, 1.5).repeat(x.shape[1], 1, 1, 1)
    terms = []
    for scale in range(scales):
        if scale:
            padding = [length % 2 for length in x.shape[2:]]
            x, x_hat = (F.avg_pool2d(image, 2, padding=padding) for image in (x, x_hat))
        similarity, contrast = _ssim(x, x_hat, 1.0, window, size_average=False)  # N, 3
        terms.append(similarity if scale == scales - 1 else contrast)
    powers = (weights / weights.sum())[:, None, None]
    return (torch.stack(terms).clamp(min=MIN_CONTRAST) ** powers).prod(0).mean(1)
