"""Abstract coder between a latent y and the strings of a bitstream."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from cdl_d2.codec.entropy.tables import MAKING_TABLES, update_tables
from cdl_d2.codec.latent import Latent
from cdl_d2.errors import CdlError

Table = TypeVar("Table")


@dataclass(frozen=True)
class Quantized:
    """Quantized latent of one image, and the entropy model's prediction of it.

    Attributes:
        y_hat: M x h x w, the latent that the decoder reconstructs.
        y_symbols: M x h x w, the integers that are coded for it.
        scales_hat: M x h x w, predicted standard deviations in units of y_hat; None if the entropy
            model predicts none.
        means_hat: M x h x w, predicted means; None if the entropy model predicts none.
        z_symbols: C x h/4 x w/4, the integers that are coded for the hyperprior; None without one.
    """

    y_hat: torch.Tensor
    y_symbols: torch.Tensor
    scales_hat: torch.Tensor | None = None
    means_hat: torch.Tensor | None = None
    z_symbols: torch.Tensor | None = None

    @property
    def is_finite(self) -> bool:
        """True if all latents, scales and means are finite."""
        parts = (self.y_hat, self.scales_hat, self.means_hat)
        return all(part is None or is_finite(part) for part in parts)

    @cached_property
    def checksum(self) -> int:
        """CRC-32 of all symbols."""
        value = 0
        for symbols in (self.y_symbols, self.z_symbols):
            if symbols is not None:
                value = zlib.crc32(symbols.cpu().contiguous().numpy(), value)
        return value


def is_finite(values: torch.Tensor) -> bool:
    """Return True if all values are finite, without a mask of them."""
    return not values.numel() or bool(torch.stack(values.aminmax()).isfinite().all())


class LatentCoder(ABC):
    """Abstract quantizer and entropy coder of latents, with one subclass per entropy model.

    ```
    y --quantize--> Quantized(y_hat, symbols, ...) --encode--> strings --decode--> Quantized
                        `--bits--> -log2 of the likelihoods
    ```

    `decode` forms y_hat by the same functions of the same numbers as `quantize`, so that both give
    the same y_hat, bit for bit.

    Args:
        network: a CompressAI image model.
        quality: rate of a variable-rate network; other coders ignore it.

    Attributes:
        parts: submodules that the network must have besides `g_a` and `g_s`.
        quantizations: quantizations of latents that the entropy model allows.
        training_quantizations: quantizations of TrainableCodec that fit it; empty if the network
            cannot be trained by this package.
        is_variable_rate: one network codes at several rates.
        predicts_scales: the entropy model predicts a standard deviation per symbol of y.
        reads_compressai: strings that CompressAI wrote can be decoded.
        codes_channels_alone: channels of y can be coded without the others.
        string_count: number of strings per image.
    """

    parts: ClassVar[tuple[str, ...]]
    quantizations: ClassVar[tuple[str, ...]] = ("dequantized", "rounded")
    training_quantizations: ClassVar[tuple[str, ...]] = ("noise", "straight-through")
    is_variable_rate = False
    predicts_scales = True
    reads_compressai = True
    codes_channels_alone = False
    string_count = 2

    def __init__(self, network: nn.Module, quality: int = 1):
        self._network = network
        self._is_updated = False

    @property
    def channels(self) -> int:
        """Number of channels of y_hat."""
        return int(self._network.M)

    @property
    def forward_arguments(self) -> dict[str, int]:
        """Arguments of the network's `forward` besides the image."""
        return {}

    @abstractmethod
    def quantize(self, y: torch.Tensor) -> Quantized:
        """Return the latent y, M x h x w, as a decoder reconstructs it.

        Raises:
            CdlError: if the latent or its prediction is not finite.
        """

    @abstractmethod
    def round(self, y: torch.Tensor) -> Quantized:
        """Return the rounded latent, with the likelihoods that CompressAI's `forward` estimates."""

    def y_hat(self, y: torch.Tensor, rounded: bool) -> torch.Tensor:
        """Return the y_hat of `round` or `quantize`, faster where it needs no entropy model."""
        return (self.round(y) if rounded else self.quantize(y)).y_hat

    def quantize_batch(self, y: torch.Tensor, rounded: bool) -> dict[str, torch.Tensor]:
        """Quantize y, N x M x h x w, by operations that can be traced, all in float32.

        Returns:
            `y_hat`, or `y` itself if y_hat is formed step by step; with a hyperprior also `z_hat`.

        Raises:
            CdlError: if this entropy model has no such function.
        """
        raise CdlError(f"latents of a {type(self).__name__} are not quantized by one function of y")

    def quantize_as_forward(self, y: torch.Tensor) -> Quantized:
        """Return the latent that the network's `forward` decodes in eval mode."""
        return self.quantize(y)

    @abstractmethod
    def bits(self, quantized: Quantized) -> tuple[torch.Tensor, float]:
        """Estimate the bits of every symbol of y, M x h x w, and of all of z, 0 without one."""

    def to_latent(
        self,
        quantized: Quantized,
        image_size: tuple[int, int],
        with_scales: bool,
        with_bits: bool = True,
    ) -> Latent:
        """Return the latent of an image of (H, W) pixels, with scales and bits if asked for."""
        scales_hat = quantized.scales_hat if with_scales else None
        latent = Latent(quantized.y_hat, image_size, scales_hat=scales_hat)
        return latent.with_bits(*self.bits(quantized)) if with_bits else latent

    def scale_floor(self, quantized: Quantized) -> int:
        """Return the highest scale floor at which `encode` omits nothing but zeros."""
        return 0

    @abstractmethod
    def encode(self, quantized: Quantized, scale_floor: int = 0) -> list[bytes]:
        """Encode to the string of y and, with a hyperprior, that of z.

        Args:
            quantized: result of `quantize`.
            scale_floor: at most what `scale_floor` returns; 0 to code all channels.
        """

    @abstractmethod
    def decode(
        self,
        strings: Sequence[bytes],
        grid: tuple[int, int],
        coding: str = "exact",
        scale_floor: int = 0,
    ) -> Quantized:
        """Decode the strings of `encode`.

        Args:
            strings: result of `encode`.
            grid: h and w of the latent, multiples of 4.
            coding: `exact`, or `compressai` for strings that CompressAI wrote.
            scale_floor: that of `encode`.
        """

    def _build_table(self, table: type[Table], *arguments: Any) -> Table:
        """Build a coding table from the weights that the network has now."""
        with MAKING_TABLES:
            if not self._is_updated:
                update_tables(self._network)
                self._is_updated = True
            return table(*arguments)
