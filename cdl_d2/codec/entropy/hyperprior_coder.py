"""Coder of latents whose scales (and means) depend on the hyperprior only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from cdl_d2.codec.entropy.gaussian_coder import GaussianCoder, NextSymbols
from cdl_d2.codec.entropy.latent_coder import Quantized

MAX_SCALE_FLOOR = 31  # a file has five bits for it

# A mask of channels, M booleans, and their strings.
ChannelStrings = tuple[torch.Tensor, Sequence[bytes]]


class HyperpriorCoder(GaussianCoder):
    """Coder of a scale hyperprior, or of a mean and scale hyperprior.

    *Variational Image Compression with a Scale Hyperprior* (arXiv 1802.01436); *Joint
    Autoregressive and Hierarchical Priors for Learned Image Compression* (arXiv 1809.02736).

    h_s of a scale hyperprior has M output channels, its h_a takes |y| as input; with means, h_s has
    2M output channels.

    Channels can be coded without the others. Many are zero at all positions and have small scales:
    under a *scale floor*, a channel is coded only if the row of its largest scale in the scale
    table reaches the floor. The decoder predicts the same scales, so that the string needs no list
    of channels.

    Attributes:
        channel_string_count: number of strings of `encode_channels`.
    """

    codes_channels_alone = True
    channel_string_count = 1

    def __init__(self, network: nn.Module, quality: int = 1):
        super().__init__(network, quality)
        z, h_s = torch.zeros_like(self._z.medians[None]), self.hyperprior_transforms[1]
        with torch.no_grad():
            self._is_scale_only = h_s(z).shape[1] == int(network.M)

    def round(self, y: torch.Tensor) -> Quantized:
        return replace(self.quantize(y), y_hat=self.y_hat(y, rounded=True))

    def y_hat(self, y: torch.Tensor, rounded: bool) -> torch.Tensor:
        return super().y_hat(y, rounded or self._is_scale_only)

    def quantize_batch(self, y: torch.Tensor, rounded: bool) -> dict[str, torch.Tensor]:
        z_hat = self._quantize_hyperprior(y)
        params = self.hyperprior_transforms[1](z_hat)
        scales, means = (params, 0) if self._is_scale_only else params.chunk(2, 1)
        if rounded:
            return {"y_hat": torch.round(y), "z_hat": z_hat}
        values = self._from_symbols(self._to_symbols(y - means), scales)
        return {"y_hat": values + means, "z_hat": z_hat}

    def scale_floor(self, quantized: Quantized) -> int:
        is_filled = quantized.y_symbols.flatten(1).any(1)
        return min([MAX_SCALE_FLOOR, *self._top_rows(quantized.scales_hat)[is_filled].tolist()])

    def encode(self, quantized: Quantized, scale_floor: int = 0) -> list[bytes]:
        coded = self._top_rows(quantized.scales_hat) >= scale_floor
        return [self._encode_y(quantized, coded.nonzero()[:, 0]), self.encode_hyperprior(quantized)]

    def encode_channels(self, quantized: Quantized, channels: Sequence[int]) -> list[bytes]:
        """Encode some channels of y, to strings that `decode_channels` reads."""
        return [self._encode_y(quantized, torch.as_tensor(channels))]

    def needs_hyperprior(self, channels: torch.Tensor) -> bool:
        """Return True if z is needed to decode these channels, a mask of M booleans."""
        return True

    def decode(
        self,
        strings: Sequence[bytes],
        grid: tuple[int, int],
        coding: str = "exact",
        scale_floor: int = 0,
    ) -> Quantized:
        y_string, z_string = strings

        def next_symbols(at, scales, means):
            channel_scales = scales.unflatten(0, (-1, grid[0] * grid[1]))
            coded = self._top_rows(channel_scales) >= scale_floor
            return self._read_channels(channel_scales, [(coded, [y_string])]).flatten()

        return self._form(self._z.decode(z_string, grid), next_symbols, coding)

    def decode_channels(
        self, parts: Sequence[ChannelStrings], z_string: bytes | None, grid: tuple[int, int]
    ) -> Quantized:
        """Decode strings of `encode_channels`; symbols of other channels are 0.

        Args:
            parts: channels and strings of each call of `encode_channels`.
            z_string: string of `encode_hyperprior`; None if no part needs it.
            grid: h and w of the latent, multiples of 4.
        """

        def next_symbols(at, scales, means):
            return self._read_channels(
                scales.unflatten(0, (-1, grid[0] * grid[1])), parts
            ).flatten()

        return self._form(self._z.decode(z_string, grid), next_symbols)

    def _hyperprior_input(self, y: torch.Tensor) -> torch.Tensor:
        return y.abs() if self._is_scale_only else y

    def _form_symbols(
        self, params: torch.Tensor, next_symbols: NextSymbols, coding: str
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        scales, means = (params, None) if self._is_scale_only else params.chunk(2)
        flat_means = None if means is None else means.flatten()
        symbols = next_symbols(slice(None), scales.flatten(), flat_means)
        return symbols.view_as(scales), scales, means

    def _encode_y(self, quantized: Quantized, channels: torch.Tensor) -> bytes:
        rows = self._rows(quantized.scales_hat[channels])
        return self._y_tables.encode(quantized.y_symbols[channels], rows)

    def _read_channels(self, scales: torch.Tensor, parts: Sequence[ChannelStrings]) -> torch.Tensor:
        """Return the symbols of y, M x n, given the scales, M x n, and channels with strings."""
        symbols = torch.zeros(scales.shape, dtype=torch.int32)
        for mask, [string] in parts:
            channels = mask.nonzero()[:, 0]  # whole rows are copied faster than by a mask
            rows = self._rows(scales.index_select(0, channels))
            symbols.index_copy_(0, channels, self._y_tables.decode(string, rows))
        return symbols

    def _top_rows(self, scales: torch.Tensor) -> torch.Tensor:
        """Return the row of the largest scale of each channel, M, of scales M x ...

        Rows ascend with scales.
        """
        return self._rows(scales.flatten(1).amax(1))
