"""Coders at one rate of a network that has several.

*Variable-Rate Learned Image Compression with Multi-Objective Optimization and
Quantization-Reconstruction Offsets* (arXiv 2402.18930): y is quantized in steps of 1 / gain. The
decoder moves nonzero values towards zero, by an offset that a small network predicts from the scale
and the gain. z has a step of its own, which another small network predicts from the gain.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import nn

from cdl_d2.codec.entropy.autoregressive_coder import AutoregressiveCoder
from cdl_d2.codec.entropy.bottleneck import Bottleneck
from cdl_d2.codec.entropy.exact_arithmetic import in_float64
from cdl_d2.codec.entropy.gaussian_coder import GaussianCoder
from cdl_d2.codec.entropy.hyperprior_coder import HyperpriorCoder
from cdl_d2.codec.entropy.latent_coder import Quantized
from cdl_d2.codec.entropy.tables import MAKING_TABLES, EntropyTables, ScaleRows
from cdl_d2.codec.latent import HYPERPRIOR_CELLS
from cdl_d2.errors import CdlError


class VariableRate(GaussianCoder):
    """Mixin for the coders of variable-rate networks; list it before the coder.

    Args:
        network: one of CompressAI's variable-rate models. Coders of several rates can share it.
        quality: 1 (the smallest gain) to the number of gains; CompressAI's `s` plus 1.

    Raises:
        CdlError: if the network does not have the quality.
    """

    quantizations = ("dequantized",)
    training_quantizations = ()
    is_variable_rate = True
    reads_compressai = False

    def __init__(self, network: nn.Module, quality: int):
        if quality not in range(1, len(network.Gain) + 1):
            raise CdlError(f"quality {quality} is not one of the network's 1..{len(network.Gain)}")
        super().__init__(network, quality)
        self._quality = quality
        if hasattr(network, "gayn2zqstep"):
            self._z = _SteppedBottleneck(
                network.entropy_bottleneck, self._build_table, self._compute_z_step
            )

    @property
    def forward_arguments(self) -> dict[str, int]:
        return {"s": self._quality - 1}

    def y_hat(self, y: torch.Tensor, rounded: bool) -> torch.Tensor:
        """Return the y_hat of `quantize`: offsets always need the scales."""
        return self.quantize(y).y_hat

    def quantize_as_forward(self, y: torch.Tensor) -> Quantized:
        return self.quantize(y)

    def _to_symbols(self, residual: torch.Tensor) -> torch.Tensor:
        return torch.round(residual * self._gain)

    def _from_symbols(self, symbols: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        gain, is_nonzero, values = self._gain, symbols != 0, symbols
        if not self._network.no_quantoffset:
            bound = float(self._gaussian.scale_bound)
            scales = self._in_steps(scales[is_nonzero]).clamp(min=bound)
            pairs = torch.stack((scales, gain.expand_as(scales)), 1)  # n, 2
            offsets = in_float64(self._network.QuantABCD)(pairs)[:, 0]
            values = symbols.clone()
            values[is_nonzero] -= symbols[is_nonzero].sign() * offsets
        return values / gain

    def _in_steps(self, scales: torch.Tensor) -> torch.Tensor:
        return scales * self._gain

    @cached_property
    def _rows(self) -> ScaleRows:
        return self._build_table(ScaleRows, self._gaussian, self._gain)

    @property
    def _gain(self) -> torch.Tensor:
        return self._network.Gain[self._quality - 1].abs()

    def _compute_z_step(self) -> torch.Tensor:
        """Return the quantization step of z, a scalar."""
        step = in_float64(self._network.gayn2zqstep)(1 / self._gain.view(1))
        return self._network.lower_bound_zqstep(step)[0]


class VariableRateHyperpriorCoder(VariableRate, HyperpriorCoder):
    """Coder of CompressAI's ScaleHyperpriorVbr and MeanScaleHyperpriorVbr."""

    parts = (*HyperpriorCoder.parts, "Gain", "QuantABCD")


class VariableRateAutoregressiveCoder(VariableRate, AutoregressiveCoder):
    """Coder of CompressAI's JointAutoregressiveHierarchicalPriorsVbr."""

    parts = (*AutoregressiveCoder.parts, "Gain", "QuantABCD", "scale_to_context")

    @property
    def _context_bias(self) -> torch.Tensor:
        shift = in_float64(self._network.scale_to_context)(self._gain.view(1, 1))[0]
        return super()._context_bias + shift


class _SteppedBottleneck(Bottleneck):
    """Bottleneck that quantizes in steps other than 1.

    Args:
        compute_step: return the step, a scalar.
    """

    def __init__(
        self,
        model: nn.Module,
        build_table: Callable[..., EntropyTables],
        compute_step: Callable[[], torch.Tensor],
    ):
        super().__init__(model, build_table, HYPERPRIOR_CELLS)
        self._compute_step = compute_step

    def quantize(self, z: torch.Tensor) -> torch.Tensor:
        return torch.round((z - self.medians) / self._compute_step())

    def dequantize(self, symbols: torch.Tensor) -> torch.Tensor:
        return symbols * self._compute_step() + self.medians

    def _likelihoods(self, z_hat: torch.Tensor) -> torch.Tensor:
        return self._model(z_hat, qs=self._compute_step())[1]

    @cached_property
    def _tables(self) -> EntropyTables:
        with MAKING_TABLES:
            self._build_table(EntropyTables, self._model)
            # The model's tables may be of another rate: its coders share the network.
            self._model.update_variable(force=True, qs=self._compute_step())
            return EntropyTables(self._model)
