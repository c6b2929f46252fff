"""Between latents and strings at one rate of a network that has several.

*Variable-Rate Learned Image Compression with Multi-Objective Optimization and
Quantization-Reconstruction Offsets* (arXiv 2402.18930): y is quantized in steps of 1 / gain, and
the receiver moves what is not zero towards zero, by an offset that a small network predicts from
the scale and the gain. z has a step of its own, which another small network makes of the gain.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import nn

from cdl_d2.codec.entropy.exact_arithmetic import in_float64
from cdl_d2.codec.entropy.latent_coder import LatentCoder
from cdl_d2.codec.entropy.tables import MAKING_TABLES, EntropyTables
from cdl_d2.errors import CdlError


class VariableRateCoder(LatentCoder):
    """As LatentCoder, at one of the gains that a network has.

    Args:
        network: one of CompressAI's variable-rate models. Coders of several rates can share one.
        quality: 1 (the smallest gain) to as many as there are; CompressAI's `s` plus 1.

    Raises:
        CdlError: for a quality that the network has not.
    """

    quantizations, training_quantizations = ("dequantized",), ()
    is_variable_rate, reads_compressai = True, False

    def __init__(self, network: nn.Module, quality: int):
        if quality not in range(1, len(network.Gain) + 1):
            raise CdlError(f"quality {quality} is not one of the network's 1..{len(network.Gain)}")
        super().__init__(network)
        self._quality = quality

    @property
    def forward_arguments(self) -> dict[str, int]:
        """The rate, as CompressAI counts it."""
        return {"s": self._quality - 1}

    def y_hat(self, y: torch.Tensor, rounded: bool) -> torch.Tensor:
        """As LatentCoder.y_hat; what is not zero depends on the scales."""
        return self.quantize(y).y_hat

    def _to_symbols(self, y: torch.Tensor) -> torch.Tensor:
        return torch.round(y * self._gain)

    def _from_symbols(self, symbols: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        gain, model = self._gain, self._network.gaussian_conditional
        filled, values = symbols != 0, symbols
        if not self._network.no_quantoffset:
            scales = self._in_steps(scales[filled]).clamp(min=float(model.scale_bound))
            pairs = torch.stack((scales, gain.expand_as(scales)), 1)  # n, 2
            offsets = in_float64(self._network.QuantABCD)(pairs)[:, 0]
            values = symbols.clone()
            values[filled] -= symbols[filled].sign() * offsets
        return values / gain

    def _in_steps(self, scales: torch.Tensor) -> torch.Tensor:
        return scales * self._gain

    @property
    def _context_bias(self) -> torch.Tensor:
        seen = in_float64(self._network.scale_to_context)(self._gain.view(1, 1))[0]
        return super()._context_bias + seen

    def _z_symbols(self, z: torch.Tensor) -> torch.Tensor:
        return torch.round((z - self._medians) / self._z_step)

    def _z_hat(self, z_symbols: torch.Tensor) -> torch.Tensor:
        return z_symbols * self._z_step + self._medians

    def _z_likelihoods(self, z_hat: torch.Tensor) -> torch.Tensor:
        step = {"qs": self._z_step} if self._has_z_step else {}
        return self._network.entropy_bottleneck(z_hat, **step)[1][0]

    @property
    def _gain(self) -> torch.Tensor:
        return self._network.Gain[self._quality - 1].abs()

    @property
    def _has_z_step(self) -> bool:
        return hasattr(self._network, "gayn2zqstep")

    @property
    def _z_step(self) -> torch.Tensor:
        """Of z's symbols, a scalar."""
        if not self._has_z_step:
            return torch.ones_like(self._gain)
        step = in_float64(self._network.gayn2zqstep)(1 / self._gain.view(1))
        return self._network.lower_bound_zqstep(step)[0]

    @cached_property
    def _bottleneck_tables(self) -> EntropyTables:
        with MAKING_TABLES:
            model = self._with_tables.entropy_bottleneck
            if self._has_z_step:  # made anew, since coders of other rates use the same network
                model.update_variable(force=True, qs=self._z_step)
            return EntropyTables(model)
