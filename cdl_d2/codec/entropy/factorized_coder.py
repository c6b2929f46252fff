"""Coder of latents with a factorized prior: no hyperprior, one distribution per channel.

*Variational Image Compression with a Scale Hyperprior* (arXiv 1802.01436), appendix 6.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cdl_d2.codec.entropy.bottleneck import Bottleneck
from cdl_d2.codec.entropy.latent_coder import LatentCoder, Quantized


class FactorizedCoder(LatentCoder):
    """Coder of a CompressAI FactorizedPrior; y_hat = round(y - median) + median."""

    parts = ("entropy_bottleneck",)
    predicts_scales = False
    string_count = 1

    def __init__(self, network: nn.Module, quality: int = 1):
        super().__init__(network, quality)
        self._y = Bottleneck(network.entropy_bottleneck, self._build_table)

    def quantize(self, y: torch.Tensor) -> Quantized:
        return self._dequantize(self._y.quantize(y))

    def round(self, y: torch.Tensor) -> Quantized:
        """Return the same as `quantize`: CompressAI's `forward` rounds relative to medians, too."""
        return self.quantize(y)

    def quantize_batch(self, y: torch.Tensor, rounded: bool) -> dict[str, torch.Tensor]:
        return {"y_hat": self._y.dequantize(self._y.quantize(y))}

    def bits(self, quantized: Quantized) -> tuple[torch.Tensor, float]:
        return self._y.bits(quantized.y_symbols), 0.0

    def encode(self, quantized: Quantized, scale_floor: int = 0) -> list[bytes]:
        return [self._y.encode(quantized.y_symbols)]

    def decode(
        self,
        strings: Sequence[bytes],
        grid: tuple[int, int],
        coding: str = "exact",
        scale_floor: int = 0,
    ) -> Quantized:
        return self._dequantize(self._y.decode(strings[0], grid))

    def _dequantize(self, symbols: torch.Tensor) -> Quantized:
        return Quantized(y_hat=self._y.dequantize(symbols), y_symbols=symbols.int())
