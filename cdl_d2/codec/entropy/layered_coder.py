"""Coder of a layered representation: spatial channels and one global vector.

```
y      M spatial channels  <-- HyperpriorCoder ----------->  y string, z string
       G global channels   <-- bottleneck of their own --->  g string
```

The global vector follows the spatial channels as G constant planes in y, y_hat and the symbols, so
that models read it like any other channel. It is coded once. Both parts can be decoded alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cdl_d2.codec.entropy.bottleneck import Bottleneck
from cdl_d2.codec.entropy.hyperprior_coder import ChannelStrings, HyperpriorCoder
from cdl_d2.codec.entropy.latent_coder import Quantized


class LayeredCoder(HyperpriorCoder):
    """Coder of a LayeredGenerativeHyperprior, or another network with its `global_bottleneck`.

    Scales of global channels are 0: the entropy model predicts none.
    """

    parts = (*HyperpriorCoder.parts, "global_bottleneck")
    string_count, channel_string_count = 3, 2

    def __init__(self, network: nn.Module, quality: int = 1):
        super().__init__(network, quality)
        self._g = Bottleneck(network.global_bottleneck, self._build_table)
        self._spatial_channels = int(network.M)

    @property
    def channels(self) -> int:
        """Channels M + G of y_hat."""
        return self._spatial_channels + len(self._g.medians)

    def quantize(self, y: torch.Tensor) -> Quantized:
        return self._join(super().quantize(self._spatial(y)), self._g.quantize(self._global(y)))

    def quantize_batch(self, y: torch.Tensor, rounded: bool) -> dict[str, torch.Tensor]:
        spatial = super().quantize_batch(y[:, : self._spatial_channels], rounded)
        g = y[:, self._spatial_channels :, :1, :1]
        planes = self._g.dequantize(self._g.quantize(g)).expand(-1, -1, *y.shape[2:])
        return spatial | {"y_hat": torch.cat([spatial["y_hat"], planes], 1)}

    def y_hat(self, y: torch.Tensor, rounded: bool) -> torch.Tensor:
        """Return the y_hat of `round` or `quantize`; global channels have one quantization."""
        if not rounded:
            return self.quantize(y).y_hat
        g_hat = self._g.dequantize(self._g.quantize(self._global(y)))
        return _with_planes(torch.round(self._spatial(y)), g_hat)

    def bits(self, quantized: Quantized) -> tuple[torch.Tensor, float]:
        """Estimate bits; those of a global channel are spread evenly over its positions."""
        spatial = self._spatial_part(quantized)
        bits, side_bits = torch.zeros_like(spatial.y_hat), 0.0
        if spatial.z_symbols is not None:  # otherwise only global channels were decoded
            bits, side_bits = super().bits(spatial)
        g_bits = self._g.bits(self._global(quantized.y_symbols))
        return _with_planes(bits, g_bits / bits[0].numel()), side_bits

    def scale_floor(self, quantized: Quantized) -> int:
        return super().scale_floor(self._spatial_part(quantized))

    def encode(self, quantized: Quantized, scale_floor: int = 0) -> list[bytes]:
        """Encode to the strings of y, z and g."""
        spatial_strings = super().encode(self._spatial_part(quantized), scale_floor)
        return [*spatial_strings, self._g.encode(self._global(quantized.y_symbols))]

    def needs_hyperprior(self, channels: torch.Tensor) -> bool:
        """Return True unless all channels, of at least one, are global."""
        return bool(self._spatial(channels).any() or not channels.any())

    def encode_channels(self, quantized: Quantized, channels: Sequence[int]) -> list[bytes]:
        """Encode some spatial and some global channels, to an empty string if there are none."""
        indexes = torch.as_tensor(channels, dtype=torch.long)
        is_spatial = indexes < self._spatial_channels
        g_symbols = self._global(quantized.y_symbols)
        g_indexes = indexes[~is_spatial] - self._spatial_channels
        return [
            self._encode_y(self._spatial_part(quantized), indexes[is_spatial]),
            self._g.encode(g_symbols[g_indexes], g_indexes),
        ]

    def decode_channels(
        self, parts: Sequence[ChannelStrings], z_string: bytes | None, grid: tuple[int, int]
    ) -> Quantized:
        if z_string is None:
            zeros = torch.zeros(self._spatial_channels, *grid)
            spatial = Quantized(zeros, zeros.int(), zeros, zeros)
        else:
            y_parts = [(self._spatial(mask), strings[:1]) for mask, strings in parts]
            spatial = super().decode_channels(y_parts, z_string, grid)
        g_symbols = torch.zeros_like(self._g.medians)
        for mask, strings in parts:
            indexes = mask[self._spatial_channels :].nonzero()[:, 0]
            g_symbols[indexes] = self._g.decode(strings[1], (1, 1), indexes)
        return self._join(spatial, g_symbols)

    def decode(
        self,
        strings: Sequence[bytes],
        grid: tuple[int, int],
        coding: str = "exact",
        scale_floor: int = 0,
    ) -> Quantized:
        spatial = super().decode(strings[:2], grid, coding, scale_floor)
        return self._join(spatial, self._g.decode(strings[2], (1, 1)))

    def _join(self, spatial: Quantized, g_symbols: torch.Tensor) -> Quantized:
        medians = self._g.medians
        return Quantized(
            y_hat=_with_planes(spatial.y_hat, self._g.dequantize(g_symbols)),
            y_symbols=_with_planes(spatial.y_symbols, g_symbols.int()),
            scales_hat=_with_planes(spatial.scales_hat, torch.zeros_like(medians)),
            means_hat=_with_planes(spatial.means_hat, medians),
            z_symbols=spatial.z_symbols,
        )

    def _spatial_part(self, quantized: Quantized) -> Quantized:
        tensors = (quantized.y_hat, quantized.y_symbols, quantized.scales_hat, quantized.means_hat)
        return Quantized(*map(self._spatial, tensors), quantized.z_symbols)

    def _spatial(self, channels: torch.Tensor) -> torch.Tensor:
        return channels[: self._spatial_channels]

    def _global(self, channels: torch.Tensor) -> torch.Tensor:
        """Return the vector, G x 1 x 1, of planes."""
        return channels[self._spatial_channels :, :1, :1]


def _with_planes(spatial: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Concatenate M x h x w and the planes of G x 1 x 1 to (M + G) x h x w."""
    return torch.cat([spatial, vector.expand(-1, *spatial.shape[1:])])
