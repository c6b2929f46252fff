"""Between the transform's output y and the strings that a bitstream holds.

```
y --h_a--> z --round--> z symbols -----------> z string
               z_hat --h_s--> scales, means      |
y --round(y - means)--> y symbols -----------> y string      y_hat = symbols + means
```

Encoder and decoder call the same functions on the same numbers, so that a receiver's y_hat is the
encoder's, bit for bit.

Many channels of an image hold nothing but zeros, and their scales are small. Without a context
model, the y string can leave them out under a *scale floor*: a channel is coded only if one of its
scales reaches that row of the scale table. Both sides know the scales, so that nothing has to say
which channels these are.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import nn

from cdl_d2.codec.entropy.autoregressive import NextSymbols, predict_in_order, steps
from cdl_d2.codec.entropy.exact_arithmetic import in_float64
from cdl_d2.codec.entropy.tables import MAKING_TABLES, EntropyTables, ScaleRows
from cdl_d2.codec.latent import HYPERPRIOR_CELLS
from cdl_d2.errors import CdlError

MAX_SCALE_FLOOR = 31  # a file has five bits for it
MAX_SPREAD = 2**14  # of quantiles: the coder's distributions have 2**16 parts, one a symbol or more

# Some channels, M booleans, and their strings.
ChannelStrings = tuple[torch.Tensor, Sequence[bytes]]


@dataclass(frozen=True)
class Quantized:
    """The quantized latent of one image, with the entropy model's view of it.

    Attributes:
        y_hat, y_symbols: M x h x w, the latents and the integers that are coded for them.
        scales_hat, means_hat: M x h x w, in units of y_hat, or None where the codec predicts none.
        z_symbols: C x h/4 x w/4, what is coded of the hyperprior, or None.
    """

    y_hat: torch.Tensor
    y_symbols: torch.Tensor
    scales_hat: torch.Tensor | None = None
    means_hat: torch.Tensor | None = None
    z_symbols: torch.Tensor | None = None

    @property
    def is_finite(self) -> bool:
        """Whether all latents, scales and means are finite numbers."""
        parts = (self.y_hat, self.scales_hat, self.means_hat)
        return all(part is None or bool(part.isfinite().all()) for part in parts)

    @cached_property
    def checksum(self) -> int:
        """CRC-32 of all symbols: what an exact receiver must arrive at."""
        value = 0
        for symbols in (self.y_symbols, self.z_symbols):
            if symbols is not None:
                value = zlib.crc32(symbols.cpu().contiguous().numpy().tobytes(), value)
        return value


class LatentCoder:
    """Quantizes and codes latents with the entropy model of a CompressAI network.

    Its parts say what it is: with `h_a` it has a hyperprior, with `context_prediction` a context
    model. A hyperprior decoder of as many channels as the latent predicts scales only, and its
    encoder then reads |y|; one of twice as many predicts means, too.

    Args:
        network: a CompressAI image model.
    """

    channel_string_count = 1
    quantizations = ("dequantized", "rounded")
    training_quantizations = ("noise", "straight-through")
    is_variable_rate = False
    reads_compressai = True

    def __init__(self, network: nn.Module, quality: int = 1):
        self._network = network
        self.has_hyperprior = hasattr(network, "h_a")
        self.has_context = hasattr(network, "context_prediction")
        if self.has_context:
            self.training_quantizations = self.training_quantizations[:1]
        self.codes_channels_alone = self.has_hyperprior and not self.has_context
        self.string_count = 1 + self.has_hyperprior  # of a whole latent
        self._is_scale_only = self.codes_channels_alone and self._side_channels == self.channels

    @property
    def hyperprior_transforms(self) -> tuple[nn.Module, nn.Module]:
        """Return h_a and h_s."""
        return self._network.h_a, self._network.h_s

    @property
    def forward_arguments(self) -> dict[str, int]:
        """Arguments of the network's `forward` besides the image."""
        return {}

    @property
    def channels(self) -> int:
        """Channels M of y_hat."""
        network = self._network
        return int(network.M if hasattr(network, "M") else network.N)

    def quantize(self, y: torch.Tensor) -> Quantized:
        """The latent that a receiver will have of y, M x h x w.

        Raises:
            CdlError: if it, or what is predicted of it, is not finite.
        """
        if not self.has_hyperprior:
            return self._without_hyperprior(torch.round(y - self._medians))
        z = self._network.h_a((y.abs() if self._is_scale_only else y)[None])[0]

        def next_symbols(where, scales, means):
            wanted = y.flatten(1)[:, where].T
            return self._to_symbols(wanted if means is None else wanted - means)

        quantized = self._with_hyperprior(self._z_symbols(z), next_symbols)
        if not quantized.is_finite:
            raise CdlError("the codec predicts what is not finite: are its weights damaged?")
        return quantized

    def round(self, y: torch.Tensor) -> Quantized:
        """round(y), with the likelihoods that CompressAI's `forward` estimates for it.

        A context model sees the rounded latent everywhere at once. Codecs without a hyperprior
        have one quantization only.
        """
        if not self.has_context:
            decoded = self.quantize(y)
            return decoded if decoded.means_hat is None else replace(decoded, y_hat=torch.round(y))
        network, rounded = self._network, torch.round(y)
        z_symbols = torch.round(network.h_a(y[None])[0] - self._medians)
        params = network.h_s((z_symbols + self._medians)[None])
        context = network.context_prediction(rounded[None])
        scales, means = network.entropy_parameters(torch.cat((params, context), 1))[0].chunk(2)
        symbols = torch.round(y - means)
        return Quantized(rounded, symbols.int(), scales, means, z_symbols.int())

    def y_hat(self, y: torch.Tensor, rounded: bool) -> torch.Tensor:
        """The latent of `round` or `quantize` alone, without what only its size depends on."""
        if self.has_hyperprior and (rounded or self._is_scale_only):
            return torch.round(y)
        return self.quantize(y).y_hat

    def bits(self, quantized: Quantized) -> tuple[torch.Tensor, float]:
        """Estimated bits of every symbol of y, M x h x w, and of all of z, 0 if there is none."""
        q, network = quantized, self._network
        if q.z_symbols is None:
            y = network.entropy_bottleneck((q.y_symbols + self._medians)[None])[1][0]
            return -torch.log2(y), 0.0
        gaussian, symbols = network.gaussian_conditional, q.y_symbols[None].float()
        y = gaussian(symbols, self._in_steps(q.scales_hat)[None])[1][0]  # relative to their means
        z = self._z_likelihoods(self._z_hat(q.z_symbols)[None])
        return -torch.log2(y), float(-torch.log2(z).sum(dtype=torch.float64))

    def scale_floor(self, quantized: Quantized) -> int:
        """The highest floor that leaves out nothing but zeros; 0 if channels need each other."""
        if not self.codes_channels_alone:
            return 0
        filled = quantized.y_symbols.flatten(1).any(1)
        return min([MAX_SCALE_FLOOR, *self._top_rows(quantized.scales_hat)[filled].tolist()])

    def encode(self, quantized: Quantized, scale_floor: int = 0) -> list[bytes]:
        """The strings of y and, with a hyperprior, z.

        Args:
            scale_floor: at most what the method of this name gives; 0 codes all channels.
        """
        if scale_floor:
            coded = self._top_rows(quantized.scales_hat) >= scale_floor
            [y_string] = self.encode_channels(quantized, coded.nonzero()[:, 0])
        else:
            places = self._places(quantized.y_symbols.shape)
            symbols, indexes = quantized.y_symbols, self._y_indexes(quantized)
            y_string = self._y_tables.encode(symbols.flatten()[places], indexes.flatten()[places])
        if quantized.z_symbols is None:
            return [y_string]
        return [y_string, self.encode_hyperprior(quantized)]

    def encode_hyperprior(self, quantized: Quantized) -> bytes:
        """The string of z."""
        symbols = quantized.z_symbols
        return self._bottleneck_tables.encode(symbols, _channel_indexes(symbols.shape))

    def needs_hyperprior(self, channels: torch.Tensor) -> bool:
        """Whether a layer of a file with these channels, M booleans, has the string of z."""
        return True

    def encode_channels(self, quantized: Quantized, channels: Sequence[int]) -> list[bytes]:
        """Strings of their own for some channels of y, `channel_string_count` of them."""
        chosen = torch.as_tensor(channels)
        indexes = self._y_indexes(quantized)[chosen]
        return [self._y_tables.encode(quantized.y_symbols[chosen], indexes)]

    def decode_channels(
        self, parts: Sequence[ChannelStrings], z_string: bytes | None, grid: tuple[int, int]
    ) -> Quantized:
        """What strings of `encode_channels` and the string of z hold; other symbols are 0.

        Args:
            parts: of each call of encode_channels.
            z_string: None where no part needs it.
            grid: h and w of the latent, multiples of 4.
        """

        def next_symbols(where, scales, means):
            return self._read_channels(scales.T, parts).T

        return self._with_hyperprior(self._read_hyperprior(z_string, grid), next_symbols)

    def decode(
        self,
        strings: Sequence[bytes],
        grid: tuple[int, int],
        coding: str = "exact",
        scale_floor: int = 0,
    ) -> Quantized:
        """What `encode` was given.

        Args:
            grid: h and w of the latent, multiples of 4.
            coding: `exact`, or `compressai` for strings that CompressAI wrote.
            scale_floor: that of `encode`; 0 for a codec whose channels need each other.
        """
        shape = (self.channels, *grid)
        if self.codes_channels_alone:

            def next_symbols(where, scales, means):  # all at once, channel by channel
                coded = self._top_rows(scales.T) >= scale_floor
                return self._read_channels(scales.T, [(coded, strings[:1])]).T

        else:
            read = self._y_tables.reader(strings[0], math.prod(shape))
            if not self.has_hyperprior:
                return self._without_hyperprior(read(_channel_indexes(shape)).float())

            def next_symbols(where, scales, means):
                return read(self._rows(scales)).float()

        return self._with_hyperprior(self._read_hyperprior(strings[1], grid), next_symbols, coding)

    def _read_channels(self, scales: torch.Tensor, parts: Sequence[ChannelStrings]) -> torch.Tensor:
        """The symbols of y, M x n, from scales M x n and the parts of `decode_channels`."""
        symbols = torch.zeros_like(scales)
        for mask, [string] in parts:
            rows = self._rows(scales[mask])
            symbols[mask] = self._y_tables.reader(string, rows.numel())(rows).float()
        return symbols

    def _read_hyperprior(self, string: bytes, grid: tuple[int, int]) -> torch.Tensor:
        """The symbols of z."""
        shape = (self._medians.shape[0], *(side // HYPERPRIOR_CELLS for side in grid))
        read = self._bottleneck_tables.reader(string, math.prod(shape))
        return read(_channel_indexes(shape)).float()

    def _without_hyperprior(self, symbols: torch.Tensor) -> Quantized:
        return Quantized(y_hat=symbols + self._medians, y_symbols=symbols.int())

    def _with_hyperprior(
        self, z_symbols: torch.Tensor, next_symbols: NextSymbols, coding: str = "exact"
    ) -> Quantized:
        z_hat = self._z_hat(z_symbols)[None]
        h_s = self._network.h_s
        params = (h_s(z_hat) if coding == "compressai" else in_float64(h_s)(z_hat))[0]
        if self.has_context:
            symbols, scales, means = predict_in_order(
                self._network,
                params,
                next_symbols,
                coding,
                self._from_symbols,
                self._context_bias,
            )
        else:
            scales, means = (params, None) if self._is_scale_only else params.chunk(2)
            flat = [each if each is None else each.flatten(1).T for each in (scales, means)]
            symbols = next_symbols(slice(None), *flat).T.reshape(scales.shape)
        values = self._from_symbols(symbols, scales)
        return Quantized(
            y_hat=values if means is None else values + means,
            y_symbols=symbols.int(),
            scales_hat=scales,
            means_hat=means,
            z_symbols=z_symbols.int(),
        )

    def _to_symbols(self, y: torch.Tensor) -> torch.Tensor:
        """The symbols of y, of which means are already subtracted."""
        return torch.round(y)

    def _from_symbols(self, symbols: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Return y_hat - means_hat of symbols, from their scales of y."""
        return symbols

    def _in_steps(self, scales: torch.Tensor) -> torch.Tensor:
        """Return scales of y in quantization steps, which the distributions of symbols have."""
        return scales

    @property
    def _context_bias(self) -> torch.Tensor:
        return self._network.context_prediction.bias

    def _z_symbols(self, z: torch.Tensor) -> torch.Tensor:
        return torch.round(z - self._medians)

    def _z_hat(self, z_symbols: torch.Tensor) -> torch.Tensor:
        return z_symbols + self._medians

    def _z_likelihoods(self, z_hat: torch.Tensor) -> torch.Tensor:
        return self._network.entropy_bottleneck(z_hat)[1][0]

    @property
    def _side_channels(self) -> int:
        """Channels of what the hyperprior's decoder gives."""
        with torch.no_grad():
            return self._network.h_s(torch.zeros_like(self._medians[None])).shape[1]

    @property
    def _medians(self) -> torch.Tensor:
        """Of the channels that the entropy bottleneck codes, C x 1 x 1."""
        return self._network.entropy_bottleneck.quantiles[:, :, 1:2]

    def _y_indexes(self, quantized: Quantized) -> torch.Tensor:
        """Which of the coder's tables belongs to each symbol of y."""
        if quantized.scales_hat is None:
            return _channel_indexes(quantized.y_symbols.shape)
        return self._rows(quantized.scales_hat)

    def _top_rows(self, scales: torch.Tensor) -> torch.Tensor:
        """The row of the largest scale of each channel, M, of scales M x ..."""
        return self._rows(scales.flatten(1).amax(1))

    def _rows(self, scales: torch.Tensor) -> torch.Tensor:
        """Return the rows of the scale table that belong to scales of y, on the CPU."""
        return self._scale_rows(self._in_steps(scales))

    def _places(self, shape: torch.Size) -> torch.Tensor | slice:
        """The flat places of the latent in the order in which they are coded."""
        if not self.has_context:
            return slice(None)
        positions = torch.cat(steps(*shape[1:], "exact"))
        channels = torch.arange(shape[0]) * shape[1] * shape[2]
        return (positions[:, None] + channels).flatten()

    @property
    def _y_tables(self) -> EntropyTables:
        return self._gaussian_tables if self.has_hyperprior else self._bottleneck_tables

    @cached_property
    def _gaussian_tables(self) -> EntropyTables:
        with MAKING_TABLES:
            return EntropyTables(self._with_tables.gaussian_conditional)

    @cached_property
    def _scale_rows(self) -> ScaleRows:
        with MAKING_TABLES:
            return ScaleRows(self._with_tables.gaussian_conditional)

    @cached_property
    def _bottleneck_tables(self) -> EntropyTables:
        with MAKING_TABLES:
            return EntropyTables(self._with_tables.entropy_bottleneck)

    @cached_property
    def _with_tables(self) -> nn.Module:
        """The network with coding tables of its weights, whatever tables it had."""
        lowest, highest = self._network.entropy_bottleneck.quantiles.aminmax()
        if not highest - lowest <= MAX_SPREAD:  # also true for NaN
            raise CdlError(
                f"the codec's weights are damaged: quantiles from {float(lowest):g} to "
                f"{float(highest):g} are further apart than {MAX_SPREAD}"
            )
        try:
            self._network.update(force=True)
        except ValueError as error:
            raise CdlError(f"the codec's weights give no distributions: {error}") from error
        return self._network


def _channel_indexes(shape: Sequence[int]) -> torch.Tensor:
    """Which table belongs to each symbol, C x h x w: the entropy bottleneck has one a channel."""
    return torch.arange(shape[0], dtype=torch.int32)[:, None, None].expand(tuple(shape))
