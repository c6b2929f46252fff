"""Quantization and coding of a tensor whose channels have one fixed distribution each."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import nn

from cdl_d2.codec.entropy.tables import EntropyTables


class Bottleneck:
    """Quantizer and coder of z (or y, without a hyperprior), C x h x w.

    Args:
        model: CompressAI's EntropyBottleneck, of C channels.
        build_table: LatentCoder._build_table.
        stride: positions of y per side of a position: 4 for z.
    """

    def __init__(
        self, model: nn.Module, build_table: Callable[..., EntropyTables], stride: int = 1
    ):
        self._model, self._build_table, self._stride = model, build_table, stride

    def quantize(self, z: torch.Tensor) -> torch.Tensor:
        """Return symbols: z relative to the median of its channel, rounded."""
        return torch.round(z - self.medians)

    def dequantize(self, symbols: torch.Tensor) -> torch.Tensor:
        """Return z_hat of symbols."""
        return symbols + self.medians

    def bits(self, symbols: torch.Tensor) -> torch.Tensor:
        """Estimate the bits of each symbol."""
        return -torch.log2(self._likelihoods(self.dequantize(symbols)[None])[0])

    def encode(self, symbols: torch.Tensor, channels: torch.Tensor | None = None) -> bytes:
        """Encode symbols of all channels, or of those that `channels` lists."""
        return self._tables.encode(symbols, self._indexes(symbols.shape, channels))

    def decode(
        self, string: bytes, grid: tuple[int, int], channels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Decode the string of `encode`, given (h, w) of y, to float symbols."""
        count = len(self.medians) if channels is None else len(channels)
        shape = (count, grid[0] // self._stride, grid[1] // self._stride)
        return self._tables.decode(string, self._indexes(shape, channels)).float()

    @property
    def medians(self) -> torch.Tensor:
        """Medians of the channels, C x 1 x 1."""
        return self._model.quantiles[:, :, 1:2]

    def _likelihoods(self, z_hat: torch.Tensor) -> torch.Tensor:
        return self._model(z_hat)[1]

    @staticmethod
    def _indexes(shape: tuple[int, ...], channels: torch.Tensor | None) -> torch.Tensor:
        """Return the index of the table of each symbol: there is one table per channel."""
        if channels is None:
            channels = torch.arange(shape[0])
        return channels.int()[:, None, None].expand(tuple(shape))

    @cached_property
    def _tables(self) -> EntropyTables:
        return self._build_table(EntropyTables, self._model)
