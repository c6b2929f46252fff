"""From a latent to what a pixel network's first convolution gives, by a linear map that is fitted,
not trained.

A learned decoder is close to linear, and a convolution is linear: so is, nearly, the way from a
latent to the first convolution's output. The best map follows in closed form from some images
without labels.

Shapes: N images, M latent channels, h x w cells of 16 x 16 pixels, C channels and stride t pixels
of the first convolution, s pixels a side of the cells that the map reads, k = s/t.
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
from cdl_d2.nn.bridge.bridge import decoder_layers
from cdl_d2.nn.bridge.regression import Regression
from cdl_d2.nn.input.latent_input import LatentInput

WINDOW = 3  # cells a side that an output cell is made from
DECODER_STRIDE = 8  # pixels: of the features that a map reads, if nobody says which
DECODER_STRIDES = (16, 8, 4)


class LinearBridge(nn.Module):
    """In the place of a pixel network's first convolution: reads a latent, and gives the same.

    ```
    y_hat (16) -> input -> layers of g_s (s) -> 3x3 conv, width -> 1x1 conv, C k^2
               -> pixel shuffle -> feature (t)
    ```

    The map is fitted and does not learn by gradients, which would undo the fit: only what follows
    does. The convolution stays inside under its own names, so that a checkpoint of the pixel
    network fits, and `fit` knows what to reproduce. A `norm` and an `activation` that Detectron2
    keeps in a convolution are taken over, and follow.

    Args:
        codec: whose latents are read.
        convolution: from 3 x H x W pixels to C x ceil(H/t) x ceil(W/t).
        width: rank of the linear map; default as many as it reads channels.
        decoder_stride: s, in pixels: how far the first layers of the codec's decoder go before the
            map; 16 for none of them.

    Raises:
        CdlError: for a convolution that does not read three channels, has other parameters than
            weight and bias, or whose stride does not divide s; for a width or s that cannot be.
    """

    def __init__(
        self,
        codec: Codec,
        convolution: nn.Conv2d,
        width: int | None = None,
        decoder_stride: int = DECODER_STRIDE,
    ):
        super().__init__()
        t = convolution.stride[0]
        if decoder_stride not in DECODER_STRIDES:
            raise CdlError(
                f"MODEL.BRIDGE.STRIDE {decoder_stride} is not one of "
                f"{', '.join(map(str, DECODER_STRIDES))}"
            )
        if convolution.in_channels != 3 or set(convolution.stride) != {t} or decoder_stride % t:
            raise CdlError(
                "a bridge stands for a convolution of 3 channels whose stride divides "
                f"MODEL.BRIDGE.STRIDE, {decoder_stride}; this has {convolution.in_channels} "
                f"channels and stride {convolution.stride}: 16 suits patches of 16 pixels"
            )
        held = {
            name for name, _ in chain(convolution.named_parameters(), convolution.named_buffers())
        }
        other = {name for name in held - {"weight", "bias"} if not name.startswith("norm.")}
        if other:
            raise CdlError(
                f"{type(convolution).__name__} has a {min(other)} beside weight and bias: a bridge "
                "stands for plain convolutions"
            )
        self._upscale, self.layers = decoder_stride // t, nn.Identity()
        channels = codec.latent_channels
        self.out_channels, self.stride = convolution.out_channels, convolution.stride
        bare = copy.deepcopy(convolution)  # some pad in a way of their own: not a plain conv2d
        bare.norm = bare.activation = None
        self._convolution = [bare]  # a list, which nn.Module does not look into
        self.register_buffer("weight", bare.weight.data)
        self.register_buffer("bias", None if bare.bias is None else bare.bias.data)
        self.register_buffer("is_fitted", torch.tensor(False))
        self.norm = getattr(convolution, "norm", None)
        self.activation = getattr(convolution, "activation", None)
        self.input = LatentInput(channels, codec.identity)
        if decoder_stride != STRIDE:
            self.layers = decoder_layers(codec, decoder_stride)
            channels = self.layers(torch.zeros(1, channels, 2, 2)).shape[1]
        width, most = width or channels, WINDOW**2 * channels
        if not 1 <= width <= most:
            raise CdlError(f"MODEL.BRIDGE.WIDTH {width} is not in 1..{most}, the rank of the map")
        self.reduce = nn.Conv2d(channels, width, WINDOW, padding=WINDOW // 2, bias=False)
        self.expand = nn.Conv2d(width, self.out_channels * self._upscale**2, kernel_size=1)
        for layer in (self.layers, self.reduce, self.expand):
            layer.requires_grad_(False)

    def forward(self, y_hat: torch.Tensor) -> torch.Tensor:
        """From y_hat, N x M x h x w, to N x C x 16h/t x 16w/t.

        Raises:
            CdlError: if y_hat has another number of channels.
        """
        cells = self.expand(self.reduce(self.layers(self.input(y_hat))))  # N, C k^2, 16h/s, 16w/s
        feature = F.pixel_shuffle(cells, self._upscale)
        if self.norm is not None:
            feature = self.norm(feature)
        return feature if self.activation is None else self.activation(feature)

    def pixel_convolution(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the convolution gives that this stands for, before norm and activation."""
        loaded = {"weight": self.weight} | ({} if self.bias is None else {"bias": self.bias})
        return functional_call(self._convolution[0], loaded, pixels)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        if state_dict.get(prefix + "is_fitted", False):
            for name, ours in self.named_parameters():
                theirs = state_dict.get(prefix + name)
                if not name.startswith("norm.") and (theirs is None or theirs.shape != ours.shape):
                    raise CdlError(
                        "the weights are of another fitted bridge: set MODEL.BRIDGE.WIDTH and "
                        f"STRIDE as it was made ({prefix}{name} differs)"
                    )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @torch.no_grad()
    def fit(self, pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> float:
        """Set both convolutions to the best map of their rank, by least squares over all cells.

        Processes of a distributed run add up what each has seen, and end up with one map.

        Args:
            pairs: y_hat, N x M x h x w, and the images as the pixel network reads them, normalized
                and padded: N x 3 x 16h x 16w.

        Returns:
            The share of the convolution's variance that the map explains, at most 1.

        Raises:
            CdlError: if there are no cells, if an image and its latent differ in size, or for
                weights that are not finite.
        """
        regression = Regression()
        for y_hat, pixels in pairs:
            target, feature = self.pixel_convolution(pixels), self.layers(self.input(y_hat))
            size = tuple(self._upscale * side for side in feature.shape[2:])
            if tuple(target.shape[2:]) != size:
                raise CdlError(
                    f"the first convolution gives {tuple(target.shape[2:])} cells of an image of "
                    f"{tuple(pixels.shape[2:])} pixels, a bridge {size} of its latent: it must pad "
                    "by half its kernel, and the latent cover the image"
                )
            target = F.pixel_unshuffle(target, self._upscale)
            windows = F.unfold(feature, WINDOW, padding=WINDOW // 2)
            regression.add(
                windows.movedim(1, 2).flatten(0, 1), target.flatten(2).movedim(1, 2).flatten(0, 1)
            )
        solution = regression.over_processes().solve(self.reduce.out_channels)
        self.reduce.weight.copy_(solution.reduce.T.reshape(self.reduce.weight.shape))
        self.expand.weight.copy_(solution.expand.T[:, :, None, None])
        self.expand.bias.copy_(solution.bias)
        self.is_fitted.fill_(True)
        return solution.explained


def bridge_first_convolution(
    network: nn.Module, codec: Codec, width: int | None = None, decoder_stride: int = DECODER_STRIDE
) -> LinearBridge:
    """Put a LinearBridge in the place of a pixel network's first convolution.

    Args:
        network: has one convolution that reads pixels; is changed.
        codec, width, decoder_stride: see LinearBridge.

    Raises:
        CdlError: if no convolution, or more than one, reads 3 channels; see LinearBridge.
    """
    found = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and module.in_channels == 3
    ]
    if len(found) != 1:
        raise CdlError(
            f"{type(network).__name__} has {len(found)} convolutions of 3 channels: a bridge "
            "takes the place of the only one that reads pixels"
        )
    name, convolution = found[0]
    path, _, last = name.rpartition(".")
    parent = network.get_submodule(path)
    bridge = LinearBridge(codec, convolution, width, decoder_stride)
    setattr(parent, last, bridge)
    if hasattr(parent, "img_size"):
        parent.img_size = None  # timm's PatchEmbed checks sizes as those of pixels
    return bridge
