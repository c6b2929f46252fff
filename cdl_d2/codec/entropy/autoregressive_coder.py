"""Coder of latents with a raster-scan context model (mbt2018, cheng2020).

*Joint Autoregressive and Hierarchical Priors for Learned Image Compression* (arXiv 1809.02736);
*Learned Image Compression with Discretized Gaussian Mixture Likelihoods and Attention Modules*
(arXiv 2001.01568), whose anchor and attention models have a single Gaussian in CompressAI.

Mean and scale at a position depend on the latents that were decoded before in a 5 x 5 window.
Encoder and decoder therefore form y_hat = round(y - mu) + mu step by step, in one of two codings:

`compressai`: position by position, row by row, in float32, as CompressAI does.
`exact`: in wavefronts. A step has all positions (r, c) of the same c + 3r, whose windows do not
contain each other: w + 3h - 3 steps instead of h * w. Predictions are computed in float64.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from cdl_d2.codec.entropy.exact_arithmetic import in_float64
from cdl_d2.codec.entropy.gaussian_coder import GaussianCoder, NextSymbols
from cdl_d2.codec.entropy.latent_coder import Quantized

COMPRESSAI = "compressai"


class AutoregressiveCoder(GaussianCoder):
    """Coder of CompressAI's JointAutoregressiveHierarchicalPriors.

    ```
    params = h_s(z_hat) -----------------------+--> entropy_parameters --> scales, means (one step)
    y_hat so far --> context_prediction -------'                              |
          ^------------------ symbols + means <-------------------------------'
    ```
    """

    parts = (*GaussianCoder.parts, "context_prediction", "entropy_parameters")
    training_quantizations = ("noise",)

    def round(self, y: torch.Tensor) -> Quantized:
        """Return the rounded latent, predicted with all of it as context, as `forward` does."""
        network, rounded = self._network, torch.round(y)
        z_symbols = self._z.quantize(network.h_a(y[None])[0])
        params = network.h_s(self._z.dequantize(z_symbols)[None])
        context = network.context_prediction(rounded[None])
        scales, means = network.entropy_parameters(torch.cat((params, context), 1))[0].chunk(2)
        symbols = torch.round(y - means)
        return Quantized(rounded, symbols.int(), scales, means, z_symbols.int())

    def quantize_as_forward(self, y: torch.Tensor) -> Quantized:
        return self.round(y)

    def _form_symbols(
        self, params: torch.Tensor, next_symbols: NextSymbols, coding: str
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        channels, (height, width) = params.shape[0] // 2, params.shape[1:]
        parts = [params.new_empty(channels, height * width) for _ in range(3)]
        context = _Context(self._network, params, self._context_bias)
        offsets = torch.arange(channels, device=params.device) * height * width
        for positions in steps(height, width, coding, params.device):
            scales, means = context.predict(positions, coding)
            symbols = next_symbols(positions[:, None] + offsets, scales, means)  # n, M
            context.set(positions, self._from_symbols(symbols, scales) + means)
            for tensor, values in zip(parts, (symbols, scales, means), strict=True):
                tensor[:, positions] = values.T
        return tuple(tensor.unflatten(1, (height, width)) for tensor in parts)

    def _coding_order(self, quantized: Quantized) -> torch.Tensor:
        channels, height, width = quantized.y_symbols.shape
        positions = torch.cat(steps(height, width, "exact"))
        return (positions[:, None] + torch.arange(channels) * height * width).flatten()

    @property
    def _context_bias(self) -> torch.Tensor:
        """Bias of the context prediction, 2M."""
        return self._network.context_prediction.bias


def steps(
    height: int, width: int, coding: str, device: torch.device | str = "cpu"
) -> list[torch.Tensor]:
    """Return the flat positions (r * w + c) of each step of a coding, rows from the top."""
    positions = torch.arange(height * width, device=device)
    if coding == COMPRESSAI:
        return list(positions.split(1))
    front = positions % width + 3 * (positions // width)
    return list(positions[front.argsort(stable=True)].split(front.bincount().tolist()))


class _Context:
    """Decoded part of a latent, and the scales and means that it predicts for other positions.

    Args:
        network: a CompressAI JointAutoregressiveHierarchicalPriors.
        params: 2M x h x w, the output of the hyperprior decoder h_s.
        bias: 2M, of the context prediction.
    """

    def __init__(self, network: torch.nn.Module, params: torch.Tensor, bias: torch.Tensor):
        layer = network.context_prediction
        self._parameters, self._params = network.entropy_parameters, params
        self._exact_parameters = in_float64(network.entropy_parameters)
        self._kernel, self._border = layer.kernel_size[0], layer.kernel_size[0] // 2
        self._masked_weight, self._bias = layer.weight * layer.mask, bias  # 2M, M, 5, 5
        taps = layer.mask[0, 0].nonzero()  # the decoded part of a window
        self._weight = self._masked_weight[:, :, taps[:, 0], taps[:, 1]].flatten(1).T.double()
        self._y_hat = F.pad(torch.zeros_like(params[: len(params) // 2]), (self._border,) * 4)
        self._columns = self._y_hat.shape[2]
        self._taps = taps[:, 0] * self._columns + taps[:, 1]  # from a window's upper left corner

    def set(self, positions: torch.Tensor, y_hat: torch.Tensor) -> None:
        """Set the latents, n x M, at flat positions, n."""
        row, column = self._corner(positions)
        self._y_hat[:, row + self._border, column + self._border] = y_hat.T

    def predict(self, positions: torch.Tensor, coding: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scales and means, n x M each, at flat positions, n."""
        return self._predict_one(positions) if coding == COMPRESSAI else self._predict(positions)

    def _predict_one(self, position: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict a single position by CompressAI's own operations."""
        row, column = (int(index) for index in self._corner(position))
        window = self._y_hat[None, :, row : row + self._kernel, column : column + self._kernel]
        context = F.conv2d(window, self._masked_weight, bias=self._bias)  # 1, 2M, 1, 1
        params = self._params[None, :, row : row + 1, column : column + 1]
        gaussian = self._parameters(torch.cat((params, context), dim=1))
        return gaussian[:, :, 0, 0].chunk(2, 1)

    def _predict(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict n positions by one matrix product."""
        row, column = self._corner(positions)
        windows = (row * self._columns + column)[:, None] + self._taps
        y_hat = self._y_hat.flatten(1)[:, windows].transpose(0, 1).flatten(1)  # n, 12 M
        context = torch.addmm(self._bias.double(), y_hat.double(), self._weight)  # n, 2M
        both = torch.cat((self._params.flatten(1)[:, positions].double(), context.T))  # 4M, n
        return self._exact_parameters(both[None, :, None])[0, :, 0].T.chunk(2, 1)

    def _corner(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        width = self._params.shape[2]
        return positions // width, positions % width
