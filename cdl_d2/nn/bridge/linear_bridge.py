"""Linear input adapter (bridge) from a latent to the first convolution of an RGB model.

A learned decoder is close to linear, and a convolution is linear: so the map from a latent to the
first convolution's output is close to linear. It is fitted in closed form (least squares) to some
images without labels.

Shapes: N images, M latent channels, h x w latent positions of 16 x 16 pixels; C channels and stride
t pixels of the first convolution; stride s pixels of the features that the map reads; k = s/t, at
least 1.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import chain

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from cdl_d2.codec.codec import Codec
from cdl_d2.codec.latent import STRIDE
from cdl_d2.errors import CdlError
from cdl_d2.nn.bridge.decoder_layers import DecoderLayers, decoder_layers
from cdl_d2.nn.bridge.input_adapter import InputAdapter
from cdl_d2.nn.bridge.regression import Regression, list_positions
from cdl_d2.nn.input.latent_input import LatentInput

WINDOW = 3  # kernel size of the map
DECODER_STRIDE = 8  # default stride in pixels of the features that the map reads
DECODER_STRIDES = (16, 8, 4, 2)
STRIDES = (1, 2, 4, 8, 16, 32)  # of the convolution, in pixels; they divide 16 or are its multiples


class LinearBridge(InputAdapter):
    """Drop-in for an RGB model's first convolution: approximates its output from a latent.

    ```
    y_hat (16) -> input -> layers of g_s (s) -> 3x3 conv, width -> 1x1 conv, C k^2
               -> pixel shuffle -> feature (t)
    ```

    Patches of t > s pixels have no pixel shuffle: r = t/s is the stride of the first convolution of
    the map, whose window then covers the patch and one position around it.

    The map has no gradients, which would undo the fit; the layers behind it learn. The weights of
    the convolution stay in the state under their own names, so that a checkpoint of the RGB model
    fits, and as the target of `fit`. The `norm` and `activation` inside Detectron2's convolutions
    are applied after the map.

    Args:
        codec: codec of the latents.
        convolution: maps 3 x H x W pixels to C x H' x W', not more than ceil(H/t) x ceil(W/t).
        width: rank of the map; default the number of channels that it reads, or C for patches.
        decoder_stride: s, in pixels, at which the copied first layers of the codec's decoder end;
            16 for no layers.

    Raises:
        CdlError: for a convolution that does not read three channels, has parameters beside weight
            and bias, pads by more than half its kernel, or has a stride that is not one of STRIDES;
            for an invalid width or s.
    """

    def __init__(
        self,
        codec: Codec,
        convolution: nn.Conv2d,
        width: int | None = None,
        decoder_stride: int = DECODER_STRIDE,
    ):
        super().__init__()
        _check_convolution(convolution, decoder_stride)
        self._upscale = max(1, decoder_stride // convolution.stride[0])
        self._patch = max(1, convolution.stride[0] // decoder_stride)  # r, or 1
        self.out_channels, self.stride = convolution.out_channels, convolution.stride
        bare = copy.deepcopy(convolution)  # a subclass of Conv2d may pad in its own way
        bare.norm = bare.activation = None
        self._convolution = [bare]  # in a list, so that it is no submodule
        self._margins = _find_margins(bare)
        self.register_buffer("weight", bare.weight.data)
        self.register_buffer("bias", None if bare.bias is None else bare.bias.data)
        self.register_buffer("is_fitted", torch.tensor(False))
        self.norm = getattr(convolution, "norm", None)
        self.activation = getattr(convolution, "activation", None)
        channels, reads_decoder = codec.latent_channels, decoder_stride != STRIDE
        self.layers = decoder_layers(codec, decoder_stride) if reads_decoder else DecoderLayers()
        if reads_decoder:
            channels = self.layers(torch.zeros(1, channels, 2, 2)).shape[1]
        self.input = LatentInput(codec.latent_channels, codec.identity)
        window = self._patch + WINDOW - 1
        largest, patch = window**2 * channels, self._patch
        if width is None:
            width = channels if patch == 1 else min(self.out_channels, channels * patch**2)
        if not 1 <= width <= largest:
            raise CdlError(f"bridge width {width} (rank of the map) is not in 1..{largest}")
        self.reduce = nn.Conv2d(channels, width, window, self._patch, WINDOW // 2, bias=False)
        self.expand = nn.Conv2d(width, self.out_channels * self._upscale**2, kernel_size=1)
        for layer in (self.layers, self.reduce, self.expand):
            layer.requires_grad_(False)
        self.to(bare.weight.device)

    def forward(self, y_hat: torch.Tensor) -> torch.Tensor:
        """Map y_hat, N x M x h x w, to features N x C x 16h/t x 16w/t.

        They are cropped to a batch's images; beyond each, they are the features of zero pixels.
        """
        if self.grids is None:
            feature = self.layers(self.input(y_hat))
        else:
            feature = self.run_on_grids(y_hat, self.decoder_stride)
        patches = self.expand(self.reduce(feature))  # N, C k^2, 16h/s, 16w/s
        feature = F.pixel_shuffle(patches, self._upscale)
        if self.margin or self.image_sizes:
            outside = feature.new_zeros(1) if self.bias is None else self.bias
            feature = self.fit_batch(feature, y_hat.shape[2:], self.stride[0], outside)
        if self.norm is not None:
            feature = self.norm(feature)
        return feature if self.activation is None else self.activation(feature)

    @property
    def decoder_stride(self) -> int:
        """Stride in pixels of the features that the map reads."""
        return self._upscale * self.stride[0] // self._patch

    @property
    def width(self) -> int:
        """Rank of the map."""
        return self.reduce.out_channels

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        stride, (below, right) = self.stride[0], self._margins
        return (height + below) // stride, (width + right) // stride

    def convolve_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """Apply the RGB model's convolution, without norm and activation."""
        parameters = {"weight": self.weight} | ({} if self.bias is None else {"bias": self.bias})
        return functional_call(self._convolution[0], parameters, pixels)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        if state_dict.get(prefix + "is_fitted", False):
            for name, own in self.named_parameters():
                stored = state_dict.get(prefix + name)
                if not name.startswith("norm.") and (stored is None or stored.shape != own.shape):
                    raise CdlError(
                        "the weights are of another fitted bridge: give its width and stride "
                        f"({prefix}{name} differs)"
                    )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @torch.no_grad()
    def fit(self, pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> float:
        """Fit both convolutions by least squares over all positions of a distributed run.

        Args:
            pairs: y_hat, N x M x h x w, perhaps with margin, and the RGB model's input, normalized
                images, N x 3 x H x W of at most 16h x 16w pixels.

        Returns:
            the share of the convolution's variance that the map explains, at most 1.

        Raises:
            CdlError: without data, if a latent does not cover its image, or if values are not
                finite.
        """
        regression = Regression()
        below, right = (max(0, -margin) for margin in self._margins)
        for y_hat, pixels in pairs:
            target = self.convolve_pixels(F.pad(pixels, (0, right, 0, below)))
            feature = self.layers(self.input(y_hat))
            grid = [side // self._patch for side in feature.shape[2:]]
            rows, columns = (side // self._upscale for side in target.shape[2:])  # whole patches
            if rows > grid[0] or columns > grid[1]:
                raise CdlError(
                    f"the first convolution gives {tuple(target.shape[2:])} positions of an image "
                    f"of {tuple(pixels.shape[2:])} pixels, a bridge "
                    f"{tuple(self._upscale * side for side in grid)} of its latent: the latent "
                    "must cover the image"
                )
            target = target[:, :, : rows * self._upscale, : columns * self._upscale]
            target = F.pixel_unshuffle(target, self._upscale)
            reduce = self.reduce
            windows = F.unfold(feature, reduce.kernel_size, 1, reduce.padding, reduce.stride)
            windows = windows.unflatten(2, grid)[..., :rows, :columns]
            regression.add(list_positions(windows), list_positions(target))
        solution = regression.sum_over_processes().solve(self.reduce.out_channels)
        self.reduce.weight.copy_(solution.reduce.T.reshape(self.reduce.weight.shape))
        self.expand.weight.copy_(solution.expand.T[:, :, None, None])
        self.expand.bias.copy_(solution.bias)
        self.is_fitted.fill_(True)
        return solution.explained


def _check_convolution(convolution: nn.Conv2d, decoder_stride: int) -> None:
    if decoder_stride not in DECODER_STRIDES:
        strides = ", ".join(map(str, DECODER_STRIDES))
        raise CdlError(f"bridge stride {decoder_stride} is not one of {strides}")
    stride = convolution.stride[0]
    if convolution.in_channels != 3 or {*convolution.stride} != {stride} or stride not in STRIDES:
        raise CdlError(
            f"a bridge replaces a convolution of 3 channels whose stride is one of {STRIDES}, "
            f"which fit latent positions of {STRIDE} pixels; this has {convolution.in_channels} "
            f"channels and stride {convolution.stride}"
        )
    tensors = chain(convolution.named_parameters(), convolution.named_buffers())
    names = {name for name, _ in tensors if not name.startswith("norm.")} - {"weight", "bias"}
    if names:
        raise CdlError(
            f"{type(convolution).__name__} has a {min(names)} beside weight and bias: a bridge "
            "replaces plain convolutions only"
        )


def usual_decoder_stride(network: nn.Module) -> int:
    """Return the stride, in pixels, of the decoder layers before an RGB model's bridge by default.

    This is DECODER_STRIDE, or that of latents for convolutions with a larger stride.

    Raises:
        CdlError: if not exactly one convolution reads 3 channels.
    """
    _, convolution = find_first_convolution(network)
    return STRIDE if convolution.stride[0] > DECODER_STRIDE else DECODER_STRIDE


def _find_margins(convolution: nn.Conv2d) -> list[int]:
    """Return (b, r) of a convolution that gives (H + b)/t x (W + r)/t positions, rounded down.

    Raises:
        CdlError: if it gives more than one position for t pixels.
    """
    stride = convolution.stride[0]
    convolution, side = copy.deepcopy(convolution).to("meta"), 64 * stride
    sizes = [
        convolution(torch.empty(1, 3, side + extra, side + extra, device="meta")).shape[2:]
        for extra in range(stride)
    ]
    # Hermite's identity: n is the sum of floor((n + extra) / t) over extra in 0..t - 1.
    margins = [sum(axis) - side for axis in zip(*sizes, strict=True)]
    if max(margins) >= stride:
        raise CdlError(
            f"a convolution of padding {convolution.padding} gives more than one position for each "
            f"{stride} pixels, which a bridge cannot: it may pad by half its kernel at most"
        )
    return margins


def bridge_first_convolution(
    network: nn.Module, codec: Codec, width: int | None = None, decoder_stride: int = DECODER_STRIDE
) -> LinearBridge:
    """Replace an RGB model's first convolution by a LinearBridge, in place.

    Args:
        network: a model with one convolution that reads pixels.
        codec: codec of the latents.
        width: rank of the linear map; default the number of channels that it reads.
        decoder_stride: stride in pixels of the features that the map reads.

    Raises:
        CdlError: if not exactly one convolution reads 3 channels, or a bridge cannot replace it.
    """
    name, convolution = find_first_convolution(network)
    bridge = LinearBridge(codec, convolution, width, decoder_stride)
    parent = replace_module(network, name, bridge)
    if hasattr(parent, "img_size"):
        parent.img_size = None  # timm's PatchEmbed checks sizes as those of pixels
    return bridge


def replace_module(network: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Put a module in the place of the one with a name, and return its parent."""
    path, _, last = name.rpartition(".")
    parent = network.get_submodule(path)
    setattr(parent, last, module)
    return parent


def find_first_convolution(network: nn.Module) -> tuple[str, nn.Conv2d]:
    """Return the name of an RGB model's only convolution of 3 channels, and the convolution.

    Raises:
        CdlError: if it has none, or several.
    """
    convolutions = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and module.in_channels == 3
    ]
    if len(convolutions) != 1:
        raise CdlError(
            f"{type(network).__name__} has {len(convolutions)} convolutions of 3 channels: a "
            "bridge replaces the only one that reads pixels"
        )
    return convolutions[0]
