"""Between a layered representation and its three strings.

```
y      M spatial channels  <-- latent_coder.py -->  y string, z string
       G global channels   <-- entropy bottleneck of their own -->  g string
```

The global vector stands behind the spatial channels as G constant planes, in y, in y_hat and in the
symbols alike, so that whoever reads latents reads it as any other channel. It is coded once.
Neither needs the other to be decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import nn

from cdl_d2.codec.entropy.latent_coder import ChannelStrings, LatentCoder, Quantized
from cdl_d2.codec.entropy.tables import MAKING_TABLES, EntropyTables


class LayeredCoder(LatentCoder):
    """Quantizes and codes latents of a codec with a layered representation; see LatentCoder.

    Scales of global channels are 0: nothing predicts them.

    Args:
        network: a LayeredGenerativeHyperprior, or another with its `global_bottleneck`.
    """

    has_hyperprior, has_context, codes_channels_alone = True, False, True
    string_count, channel_string_count = 3, 2

    forward_arguments = {}

    def __init__(self, network: nn.Module, quality: int = 1):
        self._network, self._spatial = network, LatentCoder(network)

    @property
    def channels(self) -> int:
        """Channels M + G of y_hat."""
        return self._spatial.channels + len(self._medians)

    def quantize(self, y: torch.Tensor) -> Quantized:
        """As LatentCoder.quantize, of (M + G) x h x w."""
        return self._join(self._spatial.quantize(self._spatial_of(y)), self._global_symbols(y))

    def round(self, y: torch.Tensor) -> Quantized:
        """As LatentCoder.round; the global channels have one quantization only."""
        return self._join(self._spatial.round(self._spatial_of(y)), self._global_symbols(y))

    def y_hat(self, y: torch.Tensor, rounded: bool) -> torch.Tensor:
        """The latent of `round` or `quantize` alone."""
        g_hat = self._global_symbols(y) + self._medians
        return _with_planes(self._spatial.y_hat(self._spatial_of(y), rounded), g_hat)

    def bits(self, quantized: Quantized) -> tuple[torch.Tensor, float]:
        """As LatentCoder.bits; those of a global channel are spread evenly over its cells."""
        spatial = self._spatial_part(quantized)
        bits, side = torch.zeros_like(spatial.y_hat), 0.0
        if spatial.z_symbols is not None:  # otherwise only global channels were read
            bits, side = self._spatial.bits(spatial)
        g_hat = self._global_of(quantized.y_symbols) + self._medians
        likelihoods = self._network.global_bottleneck(g_hat[None, :, None, None])[1].flatten()
        return _with_planes(bits, -torch.log2(likelihoods) / bits[0].numel()), side

    def scale_floor(self, quantized: Quantized) -> int:
        """As LatentCoder.scale_floor, of the spatial channels."""
        return self._spatial.scale_floor(self._spatial_part(quantized))

    def encode(self, quantized: Quantized, scale_floor: int = 0) -> list[bytes]:
        """The strings of y, z and g."""
        return [
            *self._spatial.encode(self._spatial_part(quantized), scale_floor),
            self._encode_global(quantized, torch.arange(self._spatial.channels, self.channels)),
        ]

    def encode_hyperprior(self, quantized: Quantized) -> bytes:
        """The string of z."""
        return self._spatial.encode_hyperprior(quantized)

    def needs_hyperprior(self, channels: torch.Tensor) -> bool:
        """As LatentCoder.needs_hyperprior: unless there are global channels only."""
        return bool(channels[: self._spatial.channels].any() or not channels.any())

    def encode_channels(self, quantized: Quantized, channels: Sequence[int]) -> list[bytes]:
        """Strings of their own for some spatial and some global channels; empty for none."""
        chosen = torch.as_tensor(channels, dtype=torch.long)
        is_spatial = chosen < self._spatial.channels
        return [
            *self._spatial.encode_channels(self._spatial_part(quantized), chosen[is_spatial]),
            self._encode_global(quantized, chosen[~is_spatial]),
        ]

    def decode_channels(
        self, parts: Sequence[ChannelStrings], z_string: bytes | None, grid: tuple[int, int]
    ) -> Quantized:
        """As LatentCoder.decode_channels."""
        count = self._spatial.channels
        if z_string is None:
            nothing = torch.zeros(count, *grid)
            spatial = Quantized(nothing, nothing.int(), nothing, nothing)
        else:
            y_parts = [(mask[:count], strings[:1]) for mask, strings in parts]
            spatial = self._spatial.decode_channels(y_parts, z_string, grid)
        g_parts = [(mask[count:], strings[1]) for mask, strings in parts]
        return self._join(spatial, self._read_global(g_parts))

    def decode(
        self,
        strings: Sequence[bytes],
        grid: tuple[int, int],
        coding: str = "exact",
        scale_floor: int = 0,
    ) -> Quantized:
        """As LatentCoder.decode."""
        y_string, z_string, g_string = strings
        spatial = self._spatial.decode((y_string, z_string), grid, coding, scale_floor)
        whole = torch.ones(len(self._medians), dtype=torch.bool)
        return self._join(spatial, self._read_global([(whole, g_string)]))

    def _join(self, spatial: Quantized, g_symbols: torch.Tensor) -> Quantized:
        medians = self._medians
        return Quantized(
            y_hat=_with_planes(spatial.y_hat, g_symbols + medians),
            y_symbols=_with_planes(spatial.y_symbols, g_symbols.int()),
            scales_hat=_with_planes(spatial.scales_hat, torch.zeros_like(medians)),
            means_hat=_with_planes(spatial.means_hat, medians),
            z_symbols=spatial.z_symbols,
        )

    def _spatial_part(self, quantized: Quantized) -> Quantized:
        tensors = (quantized.y_hat, quantized.y_symbols, quantized.scales_hat, quantized.means_hat)
        return Quantized(*map(self._spatial_of, tensors), quantized.z_symbols)

    def _spatial_of(self, channels: torch.Tensor) -> torch.Tensor:
        return channels[: self._spatial.channels]

    def _global_of(self, channels: torch.Tensor) -> torch.Tensor:
        """The vector, G, of planes."""
        return channels[self._spatial.channels :, 0, 0]

    def _global_symbols(self, y: torch.Tensor) -> torch.Tensor:
        return torch.round(self._global_of(y) - self._medians)

    def _encode_global(self, quantized: Quantized, channels: torch.Tensor) -> bytes:
        rows = channels - self._spatial.channels
        return self._tables.encode(quantized.y_symbols[channels, 0, 0], rows)

    def _read_global(self, parts: Sequence[tuple[torch.Tensor, bytes]]) -> torch.Tensor:
        symbols = torch.zeros(len(self._medians))
        for mask, string in parts:
            rows = mask.nonzero()[:, 0].int()
            symbols[mask] = self._tables.reader(string, len(rows))(rows).float()
        return symbols

    @property
    def _medians(self) -> torch.Tensor:
        """Of the global channels, G."""
        return self._network.global_bottleneck.quantiles[:, 0, 1]

    @cached_property
    def _tables(self) -> EntropyTables:
        with MAKING_TABLES:
            self._network.update()
            return EntropyTables(self._network.global_bottleneck)


def _with_planes(spatial: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """M x h x w and G to (M + G) x h x w."""
    return torch.cat([spatial, vector[:, None, None].expand(-1, *spatial.shape[1:])])
