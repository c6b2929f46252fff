"""Abstract coder of latents with a hyperprior, which predicts a Gaussian per symbol."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import nn

from cdl_d2.codec.entropy.bottleneck import Bottleneck
from cdl_d2.codec.entropy.exact_arithmetic import in_float64
from cdl_d2.codec.entropy.latent_coder import LatentCoder, Quantized
from cdl_d2.codec.entropy.tables import EntropyTables, ScaleRows
from cdl_d2.codec.latent import HYPERPRIOR_CELLS
from cdl_d2.errors import CdlError

# Return the symbols of some flat positions in M x h x w, given their scales and means.
NextSymbols = Callable[["torch.Tensor | slice", torch.Tensor, "torch.Tensor | None"], torch.Tensor]


class GaussianCoder(LatentCoder):
    """Abstract coder of a latent y with a hyperprior z.

    ```
    y --h_a--> z --Q--> z symbols ------------------> z string
                  z_hat --h_s--> scales, means
    y --round(y - means)--> y symbols --------------> y string
                            y_hat = y symbols + means
    ```

    Subclasses say how scales and means are predicted, in `_form_symbols`.
    """

    parts = ("h_a", "h_s", "entropy_bottleneck", "gaussian_conditional")

    def __init__(self, network: nn.Module, quality: int = 1):
        super().__init__(network, quality)
        h_a, h_s, bottleneck, self._gaussian = self._models()
        self.hyperprior_transforms = h_a, h_s
        self._z = Bottleneck(bottleneck, self._build_table, HYPERPRIOR_CELLS)

    def quantize(self, y: torch.Tensor) -> Quantized:
        values, h_a = y.flatten(), self.hyperprior_transforms[0]

        def next_symbols(at, scales, means):
            return self._to_symbols(values[at] if means is None else values[at] - means)

        z_symbols = self._z.quantize(h_a(self._hyperprior_input(y)[None])[0])
        quantized = self._form(z_symbols, next_symbols)
        if not quantized.is_finite:
            raise CdlError("the codec's predictions are not finite: its weights may be corrupted")
        return quantized

    def y_hat(self, y: torch.Tensor, rounded: bool) -> torch.Tensor:
        return torch.round(y) if rounded else self.quantize(y).y_hat

    def quantize_batch(self, y: torch.Tensor, rounded: bool) -> dict[str, torch.Tensor]:
        z_hat = self._quantize_hyperprior(y)
        return {"y_hat": torch.round(y), "z_hat": z_hat} if rounded else {"y": y, "z_hat": z_hat}

    def _quantize_hyperprior(self, y: torch.Tensor) -> torch.Tensor:
        """Return z_hat of y, N x M x h x w."""
        z = self.hyperprior_transforms[0](self._hyperprior_input(y))
        return self._z.dequantize(self._z.quantize(z))

    def bits(self, quantized: Quantized) -> tuple[torch.Tensor, float]:
        symbols = quantized.y_symbols[None].float()  # relative to their means
        likelihoods = self._gaussian(symbols, self._in_steps(quantized.scales_hat)[None])[1][0]
        z_bits = self._z.bits(quantized.z_symbols).sum(dtype=torch.float64)
        return -torch.log2(likelihoods), float(z_bits)

    def encode(self, quantized: Quantized, scale_floor: int = 0) -> list[bytes]:
        order = self._coding_order(quantized)
        symbols = quantized.y_symbols.flatten()[order]
        rows = self._rows(quantized.scales_hat).flatten()[order]
        return [self._y_tables.encode(symbols, rows), self.encode_hyperprior(quantized)]

    def encode_hyperprior(self, quantized: Quantized) -> bytes:
        """Encode z."""
        return self._z.encode(quantized.z_symbols)

    def decode(
        self,
        strings: Sequence[bytes],
        grid: tuple[int, int],
        coding: str = "exact",
        scale_floor: int = 0,
    ) -> Quantized:
        read = self._y_tables.reader(strings[0], math.prod((self.channels, *grid)))

        def next_symbols(at, scales, means):
            return read(self._rows(scales)).float()

        return self._form(self._z.decode(strings[1], grid), next_symbols, coding)

    def _form(
        self, z_symbols: torch.Tensor, next_symbols: NextSymbols, coding: str = "exact"
    ) -> Quantized:
        """Form the latent of the symbols that `next_symbols` gives.

        In an encoder, `next_symbols` rounds y - means; in a decoder, it reads the y string.
        """
        z_hat, h_s = self._z.dequantize(z_symbols)[None], self.hyperprior_transforms[1]
        params = (h_s(z_hat) if coding == "compressai" else in_float64(h_s)(z_hat))[0]
        symbols, scales, means = self._form_symbols(params, next_symbols, coding)
        values = self._from_symbols(symbols.float(), scales)
        return Quantized(
            y_hat=values if means is None else values + means,
            y_symbols=symbols.int(),
            scales_hat=scales,
            means_hat=means,
            z_symbols=z_symbols.int(),
        )

    @abstractmethod
    def _form_symbols(
        self, params: torch.Tensor, next_symbols: NextSymbols, coding: str
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return symbols, scales and means (or None), M x h x w, from the output of h_s."""

    def _models(self) -> tuple[nn.Module, ...]:
        """Return h_a, h_s, the entropy bottleneck and the Gaussian conditional."""
        network = self._network
        return network.h_a, network.h_s, network.entropy_bottleneck, network.gaussian_conditional

    def _hyperprior_input(self, y: torch.Tensor) -> torch.Tensor:
        return y

    def _to_symbols(self, residual: torch.Tensor) -> torch.Tensor:
        """Quantize y - means."""
        return torch.round(residual)

    def _from_symbols(self, symbols: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Return y_hat - means of symbols."""
        return symbols

    def _in_steps(self, scales: torch.Tensor) -> torch.Tensor:
        """Convert scales from units of y_hat to quantization steps."""
        return scales

    def _coding_order(self, quantized: Quantized) -> torch.Tensor | slice:
        """Return the flat positions in M x h x w in the order of the y string."""
        return slice(None)

    @cached_property
    def _y_tables(self) -> EntropyTables:
        return self._build_table(EntropyTables, self._gaussian)

    @cached_property
    def _rows(self) -> ScaleRows:
        """Mapping from scales to rows of the scale table, on the CPU."""
        return self._build_table(ScaleRows, self._gaussian)
