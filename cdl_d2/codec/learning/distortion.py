"""How far a reconstruction is from its image, in one number to minimize.

Shapes: N x 3 x H x W, RGB in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from cdl_d2.codec.learning.perceptual import PerceptualDistance
from cdl_d2.errors import CdlError

# Of *Multiscale structural similarity for image quality assessment*, the finest scale first.
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW = 11  # pixels a side
LEAST = 1e-6  # of a scale's contrast: a power of 0 or less has no gradient


@dataclass
class DistortionTerms:
    """Scalars, means over a batch; all but `total` are unweighted.

    Attributes:
        total: d, the weighted sum.
        mae: the mean absolute error.
        ssim: 1 - MS-SSIM.
        perceptual: d_p; None without a network.
    """

    total: torch.Tensor
    mae: torch.Tensor
    ssim: torch.Tensor
    perceptual: torch.Tensor | None


class Distortion(nn.Module):
    """d = k_MAE d_MAE + k_SSIM (1 - MS-SSIM) + k_p d_p (*Analysis on Compressed Domain: A
    Multi-Task Learning Approach*, which does not give the weights).

    The network of d_p is held outside of the parameters and the state.

    Args:
        mae, ssim, perceptual: the weights k, from 0 up.
        network: of d_p; without one there is no such term.

    Raises:
        CdlError: for a weight below 0, or one of d_p without a network.
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
        self._network = [network]  # a list, which nn.Module does not look into

    def forward(self, x: torch.Tensor, x_hat: torch.Tensor) -> DistortionTerms:
        """Of images and their reconstructions, whose values may lie outside [0, 1].

        Raises:
            CdlError: as ms_ssim.
        """
        mae, ssim = (x - x_hat).abs().mean(), 1 - ms_ssim(x, x_hat).mean()
        total = self._weights[0] * mae + self._weights[1] * ssim
        perceptual = None
        if self._network[0] is not None:
            perceptual = self._network[0].to(x.device)(x, x_hat).mean()
            total = total + self._weights[2] * perceptual
        return DistortionTerms(total, mae, ssim, perceptual)


def ms_ssim(x: torch.Tensor, x_hat: torch.Tensor) -> torch.Tensor:
    """MS-SSIM of each image, N.

    The original has five scales, each half the size of the one before, and windows of 11 pixels,
    for which images must have 161 pixels a side. Smaller ones have fewer scales, four from 81
    pixels, three from 41, two from 21, with the weights of these made to sum to 1 again. Unlike the
    figure of evaluation, it has a gradient where contrasts are opposite: they count as 1e-6.

    Raises:
        CdlError: below 11 pixels a side, or for images of two sizes.
    """
    # Its public functions know five scales only.
    from pytorch_msssim.ssim import _fspecial_gauss_1d, _ssim

    side = min(x.shape[2:])
    if x.shape != x_hat.shape or side < WINDOW:
        raise CdlError(
            f"images of {tuple(x.shape)} and {tuple(x_hat.shape)} cannot be compared by MS-SSIM: "
            f"it needs two of one size, from {WINDOW} pixels a side up"
        )
    scales = 1 + sum(side > (WINDOW - 1) * 2**i for i in range(1, len(SCALE_WEIGHTS)))
    weights = x.new_tensor(SCALE_WEIGHTS[:scales])
    window = _fspecial_gauss_1d(WINDOW, 1.5).repeat(x.shape[1], 1, 1, 1)
    found = []
    for scale in range(scales):
        if scale:
            padding = [length % 2 for length in x.shape[2:]]
            x, x_hat = (F.avg_pool2d(each, 2, padding=padding) for each in (x, x_hat))
        similarity, contrast = _ssim(x, x_hat, 1.0, window, size_average=False)  # N, 3
        found.append(similarity if scale == scales - 1 else contrast)
    powers = (weights / weights.sum())[:, None, None]
    return (torch.stack(found).clamp(min=LEAST) ** powers).prod(0).mean(1)
