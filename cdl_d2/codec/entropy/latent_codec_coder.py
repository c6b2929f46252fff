"""Between latents and strings of networks whose entropy model is a `latent_codec` of CompressAI.

Those predict a symbol from the hyperprior and from symbols that were decoded before, many at once:
all cells of one colour of a checkerboard (*Checkerboard Context Model for Efficient Learned Image
Compression*, arXiv 2103.15306), channels in groups (*Channel-wise Autoregressive Entropy Models for
Learned Image Compression*, arXiv 2007.08739), or both (*ELIC*, arXiv 2203.10886). Decoding takes
two steps a group of channels, whatever the size of the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace

import torch
from torch import nn

from cdl_d2.codec.entropy.exact_arithmetic import in_float64
from cdl_d2.codec.entropy.latent_coder import LatentCoder, Quantized
from cdl_d2.errors import CdlError

# Symbols of n places, flat in M x h x w, from the places and their scales and means.
NextAt = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class LatentCodecCoder(LatentCoder):
    """As LatentCoder. Symbols stand in the string in the order in which they are predicted.

    Args:
        network: one whose `latent_codec` is a HyperpriorLatentCodec, of a GaussianConditional, a
            checkerboard, or groups of channels of either.

    Raises:
        CdlError: for another latent codec.
    """

    quantizations, training_quantizations = ("dequantized",), ()
    reads_compressai = False

    def __init__(self, network: nn.Module, quality: int = 1):
        codec = network.latent_codec
        try:
            hyper, self._y_codec = codec["hyper"], codec["y"]
            gaussians = [each for each in self._y_codec.modules() if hasattr(each, "scale_table")]
            for each in self._y_codec.modules():
                if hasattr(each, "context_prediction"):
                    _ = each.anchor_parity, each["y"].chunks  # a checkerboard, no raster scan
                if len(getattr(each, "chunks", "12")) != 2:
                    raise TypeError("scales or means are missing")
            super().__init__(
                SimpleNamespace(
                    M=_channels(self._y_codec, hyper),
                    h_a=hyper.h_a,
                    h_s=hyper.h_s,
                    entropy_bottleneck=hyper.entropy_bottleneck,
                    gaussian_conditional=gaussians[0],  # their tables are all the same
                    context_prediction=self._y_codec,
                    update=network.update,
                )
            )
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise CdlError(
                f"a latent codec {type(codec).__name__} of {type(network).__name__} is not of a "
                "hyperprior and a checkerboard or groups of channels: it cannot be used"
            ) from error

    def quantize(self, y: torch.Tensor) -> Quantized:
        """As LatentCoder.quantize."""
        z, flat = self._network.h_a(y[None])[0], y.flatten()
        quantized = self._form(
            self._z_symbols(z), lambda at, _, means: torch.round(flat[at] - means)
        )
        if not quantized.is_finite:
            raise CdlError("the codec predicts what is not finite: are its weights damaged?")
        return quantized

    def y_hat(self, y: torch.Tensor, rounded: bool) -> torch.Tensor:
        """As LatentCoder.y_hat."""
        return self.quantize(y).y_hat

    def encode(self, quantized: Quantized, scale_floor: int = 0) -> list[bytes]:
        """As LatentCoder.encode; the order is found by predicting once more."""
        symbols, order = quantized.y_symbols.flatten(), []

        def known(at: torch.Tensor, scales: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
            order.append(at)
            return symbols[at].float()

        self._form(quantized.z_symbols.float(), known)
        places, rows = torch.cat(order), self._y_indexes(quantized).flatten()
        return [
            self._y_tables.encode(symbols[places], rows[places]),
            self.encode_hyperprior(quantized),
        ]

    def decode(
        self,
        strings: Sequence[bytes],
        grid: tuple[int, int],
        coding: str = "exact",
        scale_floor: int = 0,
    ) -> Quantized:
        """As LatentCoder.decode, of `exact` strings."""
        read = self._y_tables.reader(strings[0], math.prod((self.channels, *grid)))
        return self._form(
            self._read_hyperprior(strings[1], grid),
            lambda at, scales, _: read(self._rows(scales)).float(),
        )

    def _form(self, z_symbols: torch.Tensor, next_at: NextAt) -> Quantized:
        side = in_float64(self._network.h_s)(self._z_hat(z_symbols)[None])
        forming = _Forming(self.channels, side, next_at)
        for codec, channels, params in _groups(self._y_codec, forming, side):
            _predict(codec, channels, params, forming)
        return Quantized(
            y_hat=forming.y_hat[0],
            y_symbols=forming.symbols.int(),
            scales_hat=forming.scales,
            means_hat=forming.means,
            z_symbols=z_symbols.int(),
        )


class _Forming:
    """A latent of which a part is known: y_hat, 1 x M x h x w, and what it was made of."""

    def __init__(self, channels: int, side: torch.Tensor, next_at: NextAt):
        self.y_hat = side.new_zeros(1, channels, *side.shape[2:])
        self.symbols, self.scales, self.means = (torch.zeros_like(self.y_hat[0]) for _ in range(3))
        self._next_at = next_at
        self._places = torch.arange(self.symbols.numel(), device=side.device)
        self._places = self._places.view_as(self.symbols)

    def know(
        self, channels: slice, cells: torch.Tensor, gaussian: nn.Module, params: torch.Tensor
    ) -> None:
        """Form some cells, h x w booleans, of some channels, from the parameters of their
        distributions on all cells, which the latent codec `gaussian` takes apart."""
        at = self._places[channels][:, cells].flatten()
        scales, means = (each[0][:, cells].flatten() for each in gaussian._chunk(params))
        symbols = self._next_at(at, scales, means)
        found = (symbols, scales, means, symbols + means)
        kept = (self.symbols, self.scales, self.means, self.y_hat[0])
        for where, values in zip(kept, found, strict=True):
            where.view(-1)[at] = values


def _groups(
    codec: nn.Module, forming: _Forming, side: torch.Tensor
) -> Iterator[tuple[nn.Module, slice, torch.Tensor]]:
    """The latent codecs of the groups of channels, their channels, and what each is told of the
    hyperprior and of the groups before."""
    if not hasattr(codec, "groups"):
        yield codec, slice(0, forming.y_hat.shape[1]), side
        return
    ends = codec.groups_acc
    for k in range(len(codec.groups)):
        params = side
        if k:
            before = codec.merge_y(*forming.y_hat[:, : ends[k]].split(codec.groups[:k], 1))
            context = in_float64(codec.channel_context[f"y{k}"])(before)
            params = codec.merge_params(context, side)
        yield codec.latent_codec[f"y{k}"], slice(ends[k], ends[k + 1]), params


def _predict(codec: nn.Module, channels: slice, params: torch.Tensor, forming: _Forming) -> None:
    """Form a group of channels: all cells at once, or those of a checkerboard in two steps."""
    rows, columns = (torch.arange(side, device=params.device) for side in params.shape[2:])
    odd = (rows[:, None] + columns) % 2 == 1
    if not hasattr(codec, "context_prediction"):
        forming.know(channels, odd | ~odd, codec, in_float64(codec.entropy_parameters)(params))
        return
    predict, parameters = in_float64(codec.context_prediction), in_float64(codec.entropy_parameters)
    first = odd if codec.anchor_parity == "odd" else ~odd
    for cells in (first, ~first):
        context = predict(forming.y_hat[:, channels])
        if cells is first:
            context = torch.zeros_like(context)
        inner = codec["y"]
        told = inner.entropy_parameters(parameters(codec.merge(context, params)))
        forming.know(channels, cells, inner, told)


def _channels(codec: nn.Module, hyper: nn.Module) -> int:
    """M, by the latent codec of y."""
    if hasattr(codec, "groups"):
        return sum(codec.groups)
    if hasattr(codec, "context_prediction"):
        return codec.context_prediction.in_channels
    z = torch.zeros_like(hyper.entropy_bottleneck.quantiles[None, :, :, 1:2])
    with torch.no_grad():
        return codec.entropy_parameters(hyper.h_s(z)).shape[1] // 2
