"""Codecs with a context model (mbt2018, cheng2020), evaluated in the order of the bitstream.

Their mean and scale at a position depend on the latents decoded before it, in a 5 x 5 window. So
y_hat = round(y - mu) + mu has to be formed step by step, by encoder and decoder alike, with the
same arithmetic. Two ways exist:

`compressai`: position by position, row by row, in float32, as CompressAI codes; its streams can
only be read like this.
`exact`: in wavefronts. A step holds all positions (r, c) with the same c + 3r, whose windows do not
hold each other: w + 3h - 3 steps instead of h * w, and matrix products instead of vector ones. They
are formed in float64, see `in_float64`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from cdl_d2.codec.entropy.exact_arithmetic import in_float64

COMPRESSAI = "compressai"
CODINGS = (COMPRESSAI, "exact")

# Symbols of some positions, n x M, from where they are (flat, n), and their scales and means there.
NextSymbols = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def steps(
    height: int, width: int, coding: str, device: torch.device | str = "cpu"
) -> list[torch.Tensor]:
    """Return the flat positions (r * w + c) of each step of a coding, rows from the top."""
    positions = torch.arange(height * width, device=device)
    if coding == "compressai":
        return list(positions.split(1))
    front = positions % width + 3 * (positions // width)
    return list(positions[front.argsort(stable=True)].split(front.bincount().tolist()))


def predict_in_order(
    network: nn.Module,
    params: torch.Tensor,
    next_symbols: NextSymbols,
    coding: str,
    from_symbols: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    context_bias: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Form a latent from symbols that need the context of the ones before.

    Args:
        network: a CompressAI JointAutoregressiveHierarchicalPriors.
        params: 2M x h x w, the output of the hyperprior decoder h_s.
        next_symbols: gives the symbols of a step: round(y - mu) in an encoder, read from the
            stream in a decoder.
        coding: `exact` or `compressai`.
        from_symbols: from symbols and their scales to y_hat - means_hat.
        context_bias: 2M, of the context prediction.

    Returns:
        symbols, scales_hat and means_hat, each M x h x w.
    """
    channels, (height, width) = params.shape[0] // 2, params.shape[1:]
    symbols, scales_hat, means_hat = (params.new_empty(channels, height * width) for _ in range(3))
    context = _Context(network, params, context_bias)
    for where in steps(height, width, coding, params.device):
        predict = context.one if coding == "compressai" else context.many
        scales, means = predict(where)
        found = next_symbols(where, scales, means)  # n, M
        context.know(where, from_symbols(found, scales) + means)
        symbols[:, where], scales_hat[:, where], means_hat[:, where] = found.T, scales.T, means.T
    return tuple(each.unflatten(1, (height, width)) for each in (symbols, scales_hat, means_hat))


class _Context:
    """What is decoded so far, and the scales and means that it predicts for other positions."""

    def __init__(self, network: nn.Module, params: torch.Tensor, bias: torch.Tensor):
        layer = network.context_prediction
        self._parameters, self._params = network.entropy_parameters, params
        self._exact_parameters = in_float64(network.entropy_parameters)
        self._kernel, self._border = layer.kernel_size[0], layer.kernel_size[0] // 2
        self._masked_weight, self._bias = layer.weight * layer.mask, bias  # 2M, M, 5, 5
        taps = layer.mask[0, 0].nonzero()  # the decoded part of a window
        self._weight = self._masked_weight[:, :, taps[:, 0], taps[:, 1]].flatten(1).T.double()
        self._known = F.pad(torch.zeros_like(params[: len(params) // 2]), (self._border,) * 4)
        self._columns = self._known.shape[2]
        self._taps = taps[:, 0] * self._columns + taps[:, 1]  # from a window's upper left corner

    def know(self, where: torch.Tensor, found: torch.Tensor) -> None:
        """Positions (flat, n) have the latents n x M."""
        row, column = self._corner(where)
        self._known[:, row + self._border, column + self._border] = found.T

    def one(self, where: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scales and means of a single position, 1 x M each, by CompressAI's own operations."""
        row, column = (int(each) for each in self._corner(where))
        window = self._known[None, :, row : row + self._kernel, column : column + self._kernel]
        seen = F.conv2d(window, self._masked_weight, bias=self._bias)  # 1, 2M, 1, 1
        here = self._params[None, :, row : row + 1, column : column + 1]
        gaussian = self._parameters(torch.cat((here, seen), dim=1))
        return gaussian[:, :, 0, 0].chunk(2, 1)

    def many(self, where: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scales and means of n positions, n x M each, by one matrix product for all."""
        row, column = self._corner(where)
        windows = (row * self._columns + column)[:, None] + self._taps
        known = self._known.flatten(1)[:, windows].transpose(0, 1).flatten(1)  # n, 12 M
        seen = torch.addmm(self._bias.double(), known.double(), self._weight)  # n, 2M
        both = torch.cat((self._params.flatten(1)[:, where].double(), seen.T))  # 4M, n
        return self._exact_parameters(both[None, :, None])[0, :, 0].T.chunk(2, 1)

    def _corner(self, where: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        width = self._params.shape[2]
        return where // width, where % width
