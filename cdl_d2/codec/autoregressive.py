"""Decoded latents of codecs with a context model (mbt2018, cheng2020).

Their mean at a position depends on the latents decoded before it, so y_hat = round(y - mu) + mu
has to be formed position by position, in the order and with the operations of the decoder.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def decode_order_latent(
    network: nn.Module, y: torch.Tensor, params: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a receiver would have of y.

    Args:
        network: a CompressAI JointAutoregressiveHierarchicalPriors.
        y: 1 x M x h x w, unquantized latent.
        params: 1 x 2M x h x w, the output of the hyperprior decoder h_s.

    Returns:
        y_hat, scales_hat and means_hat, each 1 x M x h x w.
    """
    context = network.context_prediction
    kernel = context.kernel_size[0]
    border = kernel // 2
    masked_weight = context.weight * context.mask
    known = F.pad(torch.zeros_like(y), (border,) * 4)
    scales_hat, means_hat = torch.empty_like(y), torch.empty_like(y)
    for row in range(y.shape[2]):
        for column in range(y.shape[3]):
            window = known[:, :, row : row + kernel, column : column + kernel]
            seen = F.conv2d(window, masked_weight, bias=context.bias)  # 1, 2M, 1, 1
            here = params[:, :, row : row + 1, column : column + 1]
            gaussian = network.entropy_parameters(torch.cat((here, seen), dim=1))
            scale, mean = gaussian[:, :, 0, 0].chunk(2, 1)
            symbol = torch.round(y[:, :, row, column] - mean)
            known[:, :, row + border, column + border] = symbol + mean
            scales_hat[:, :, row, column], means_hat[:, :, row, column] = scale, mean
    y_hat = known[:, :, border:-border, border:-border]
    return y_hat, scales_hat, means_hat
