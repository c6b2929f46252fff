"""Coder of latents of networks whose entropy model is a `latent_codec` of CompressAI.

Symbols are predicted from the hyperprior and from symbols that were decoded before, many at once:
all positions of one colour of a checkerboard (*Checkerboard Context Model for Efficient Learned
Image Compression*, arXiv 2103.15306), channels in groups (*Channel-wise Autoregressive Entropy
Models for Learned Image Compression*, arXiv 2007.08739), or both (*ELIC: Efficient Learned Image
Compression with Unevenly Grouped Space-Channel Contextual Adaptive Coding*, arXiv 2203.10886).
Decoding takes two steps per group of channels, whatever the size of the image.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from cdl_d2.codec.entropy.exact_arithmetic import in_float64
from cdl_d2.codec.entropy.gaussian_coder import GaussianCoder, NextSymbols
from cdl_d2.codec.entropy.latent_coder import Quantized
from cdl_d2.errors import CdlError


class LatentCodecCoder(GaussianCoder):
    """Coder of a HyperpriorLatentCodec: of a GaussianConditional, a checkerboard, or groups.

    Symbols are in the y string in the order in which they are predicted.

    Raises:
        CdlError: for another latent codec.
    """

    parts = ("latent_codec",)
    quantizations = ("dequantized",)
    training_quantizations = ()
    reads_compressai = False

    @property
    def channels(self) -> int:
        return self._channels

    def round(self, y: torch.Tensor) -> Quantized:
        """Raise CdlError: means depend on earlier symbols, so there are no rounded latents."""
        raise CdlError("a latent codec gives dequantized latents only, not rounded ones")

    def _models(self) -> tuple[nn.Module, ...]:
        codec = self._network.latent_codec
        try:
            hyper, self._y_codec = codec["hyper"], codec["y"]
            for module in self._y_codec.modules():
                if hasattr(module, "context_prediction"):
                    _ = module.anchor_parity, module["y"].chunks  # a checkerboard, no raster scan
                if len(getattr(module, "chunks", "12")) != 2:
                    raise TypeError("scales or means are missing")
            # All Gaussians have the same tables.
            gaussian = next(m for m in self._y_codec.modules() if hasattr(m, "scale_table"))
            self._channels = _count_channels(self._y_codec, hyper)
            return hyper.h_a, hyper.h_s, hyper.entropy_bottleneck, gaussian
        except (AttributeError, IndexError, KeyError, StopIteration, TypeError) as error:
            raise CdlError(
                f"a latent codec {type(codec).__name__} of {type(self._network).__name__} does not "
                "consist of a hyperprior and a checkerboard or groups of channels"
            ) from error

    def _form_symbols(
        self, params: torch.Tensor, next_symbols: NextSymbols, coding: str
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        latent = _PartialLatent(self.channels, params[None], next_symbols)
        for codec, channels, group_params in _iterate_groups(self._y_codec, latent, params[None]):
            _form_group(codec, channels, group_params, latent)
        return latent.symbols, latent.scales, latent.means

    def _coding_order(self, quantized: Quantized) -> torch.Tensor:
        """Return the order of the y string, by predicting the known symbols once more."""
        symbols, order = quantized.y_symbols.flatten(), []

        def next_symbols(at, scales, means):
            order.append(at)
            return symbols[at].float()

        self._form(quantized.z_symbols.float(), next_symbols)
        return torch.cat(order)


class _PartialLatent:
    """Latent that is formed in parts: y_hat, 1 x M x h x w, and its symbols, scales and means."""

    def __init__(self, channels: int, params: torch.Tensor, next_symbols: NextSymbols):
        self.y_hat = params.new_zeros(1, channels, *params.shape[2:])
        self.symbols, self.scales, self.means = (torch.zeros_like(self.y_hat[0]) for _ in range(3))
        self._next_symbols = next_symbols
        positions = torch.arange(self.symbols.numel(), device=params.device)
        self._positions = positions.view_as(self.symbols)

    def form(
        self, channels: slice, mask: torch.Tensor, gaussian: nn.Module, params: torch.Tensor
    ) -> None:
        """Form some positions of some channels.

        Args:
            channels: the channels.
            mask: positions, h x w booleans.
            gaussian: latent codec that splits `params` into scales and means.
            params: parameters of the distributions at all positions.
        """
        at = self._positions[channels][:, mask].flatten()
        scales, means = (values[0][:, mask].flatten() for values in gaussian._chunk(params))
        symbols = self._next_symbols(at, scales, means)
        tensors = (self.symbols, self.scales, self.means, self.y_hat[0])
        for tensor, values in zip(tensors, (symbols, scales, means, symbols + means), strict=True):
            tensor.view(-1)[at] = values


def _iterate_groups(
    codec: nn.Module, latent: _PartialLatent, params: torch.Tensor
) -> Iterator[tuple[nn.Module, slice, torch.Tensor]]:
    """Yield the latent codec, channels and conditioning features of each group of channels."""
    if not hasattr(codec, "groups"):
        yield codec, slice(0, latent.y_hat.shape[1]), params
        return
    ends = codec.groups_acc
    for k in range(len(codec.groups)):
        group_params = params
        if k:
            decoded = codec.merge_y(*latent.y_hat[:, : ends[k]].split(codec.groups[:k], 1))
            context = in_float64(codec.channel_context[f"y{k}"])(decoded)
            group_params = codec.merge_params(context, params)
        yield codec.latent_codec[f"y{k}"], slice(ends[k], ends[k + 1]), group_params


def _form_group(
    codec: nn.Module, channels: slice, params: torch.Tensor, latent: _PartialLatent
) -> None:
    """Form a group of channels: all positions at once, or those of a checkerboard in two steps."""
    rows, columns = (torch.arange(side, device=params.device) for side in params.shape[2:])
    odd = (rows[:, None] + columns) % 2 == 1
    if not hasattr(codec, "context_prediction"):
        latent.form(channels, odd | ~odd, codec, in_float64(codec.entropy_parameters)(params))
        return
    predict, parameters = in_float64(codec.context_prediction), in_float64(codec.entropy_parameters)
    anchors = odd if codec.anchor_parity == "odd" else ~odd
    for mask in (anchors, ~anchors):
        context = predict(latent.y_hat[:, channels])
        if mask is anchors:
            context = torch.zeros_like(context)
        y_codec = codec["y"]
        y_params = y_codec.entropy_parameters(parameters(codec.merge(context, params)))
        latent.form(channels, mask, y_codec, y_params)


def _count_channels(codec: nn.Module, hyper: nn.Module) -> int:
    """Return M, given the latent codecs of y and z."""
    if hasattr(codec, "groups"):
        return sum(codec.groups)
    if hasattr(codec, "context_prediction"):
        return codec.context_prediction.in_channels
    z = torch.zeros_like(hyper.entropy_bottleneck.quantiles[None, :, :, 1:2])
    with torch.no_grad():
        return codec.entropy_parameters(hyper.h_s(z)).shape[1] // 2
