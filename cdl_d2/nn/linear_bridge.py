"""From a latent to what a pixel network's first convolution gives, by a linear map that is fitted,
not trained.

A learned decoder is close to linear, and a convolution is linear: so is, nearly, the way from a
latent to the first convolution's output. The map is the reduced-rank regression of the one on the
other (Izenman, *Reduced-rank regression for the multivariate linear model*, 1975), which a few
images without labels determine, in closed form.

Shapes: N images, M latent channels, h x w cells of 16 x 16 pixels, C channels and stride t pixels
of the first convolution, k = 16/t.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from cdl_d2.codec.codec import Codec
from cdl_d2.codec.latent import STRIDE
from cdl_d2.errors import CdlError
from cdl_d2.nn.latent_input import LatentInput

WINDOW = 3  # cells a side that an output cell is made from
RIDGE = 1e-5  # times the mean variance of the latents
ROWS = 4096  # cells that are added to the sums at once


class LinearBridge(nn.Module):
    """In the place of a pixel network's first convolution: reads a latent, and gives the same.

    ```
    y_hat (16) -> input -> 3x3 conv, width -> 1x1 conv, C k^2 -> pixel shuffle -> feature (t)
    ```

    The map is fitted and does not learn by gradients, which would undo the fit: only what follows
    does. The convolution stays inside under its own names, so that a checkpoint of the pixel
    network fits, and `fit` knows what to reproduce. A `norm` and an `activation` that Detectron2
    keeps in a convolution are taken over, and follow.

    Args:
        codec: whose latents are read.
        convolution: from 3 x H x W pixels to C x ceil(H/t) x ceil(W/t).
        width: rank of the linear map; default M.

    Raises:
        CdlError: for a convolution that does not read three channels, or whose stride does not
            divide a cell.
    """

    def __init__(self, codec: Codec, convolution: nn.Conv2d, width: int | None = None):
        super().__init__()
        stride = convolution.stride[0]
        if convolution.in_channels != 3 or set(convolution.stride) != {stride} or STRIDE % stride:
            raise CdlError(
                f"a latent stands for a convolution of 3 channels whose stride divides {STRIDE}, "
                f"not for {convolution}"
            )
        channels, self._upscale = codec.latent_channels, STRIDE // stride
        width = width or channels
        self.out_channels, self.stride = convolution.out_channels, convolution.stride
        self._padding, self._dilation = convolution.padding, convolution.dilation
        self.register_buffer("weight", convolution.weight.detach().clone())
        bias = convolution.bias
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self.register_buffer("is_fitted", torch.tensor(False))
        self.norm = getattr(convolution, "norm", None)
        self.activation = getattr(convolution, "activation", None)
        self.input = LatentInput(channels, codec.identity)
        self.reduce = nn.Conv2d(channels, width, WINDOW, padding=WINDOW // 2, bias=False)
        self.expand = nn.Conv2d(width, self.out_channels * self._upscale**2, kernel_size=1)
        for layer in (self.reduce, self.expand):
            layer.requires_grad_(False)

    def forward(self, y_hat: torch.Tensor) -> torch.Tensor:
        """From y_hat, N x M x h x w, to N x C x 16h/t x 16w/t.

        Raises:
            CdlError: if y_hat has another number of channels.
        """
        cells = self.expand(self.reduce(self.input(y_hat)))  # N, C k^2, h, w
        feature = F.pixel_shuffle(cells, self._upscale)
        if self.norm is not None:
            feature = self.norm(feature)
        return feature if self.activation is None else self.activation(feature)

    def pixel_convolution(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the convolution gives that this stands for, before norm and activation."""
        return F.conv2d(pixels, self.weight, self.bias, self.stride, self._padding, self._dilation)

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
            CdlError: if there are no cells, or an image and its latent differ in size.
        """
        sums = _Sums()
        for y_hat, pixels in pairs:
            target = F.pixel_unshuffle(self.pixel_convolution(pixels), self._upscale)
            if target.shape[2:] != y_hat.shape[2:]:
                raise CdlError(
                    f"an image of {tuple(pixels.shape[2:])} pixels is not covered by a latent of "
                    f"{tuple(y_hat.shape[2:])} cells"
                )
            windows = F.unfold(self.input(y_hat), WINDOW, padding=WINDOW // 2)
            sums.add(
                windows.movedim(1, 2).flatten(0, 1), target.flatten(2).movedim(1, 2).flatten(0, 1)
            )
        solution = sums.reduced_over_processes().solve(self.reduce.out_channels)
        self.reduce.weight.copy_(solution.reduce.T.reshape(self.reduce.weight.shape))
        self.expand.weight.copy_(solution.expand.T[:, :, None, None])
        self.expand.bias.copy_(solution.bias)
        self.is_fitted.fill_(True)
        return solution.explained


@dataclass
class _Solution:
    """x -> (x reduce) expand + bias."""

    reduce: torch.Tensor  # 9M, width
    expand: torch.Tensor  # width, C k^2
    bias: torch.Tensor  # C k^2
    explained: float


class _Sums:
    """Of pairs x, t of rows, what a least-squares fit needs, in float64."""

    def __init__(self) -> None:
        self._parts: list[torch.Tensor] = []  # count, sums of x, t, x'x, x't, and of t squared

    def add(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Rows of inputs and of targets."""
        for x, t in zip(inputs.split(ROWS), targets.split(ROWS), strict=True):
            x, t = x.double(), t.double()
            parts = [x.new_tensor(len(x)), x.sum(0), t.sum(0), x.T @ x, x.T @ t, (t**2).sum(0)]
            for total, part in zip(self._parts, parts, strict=False):
                total += part
            self._parts = self._parts or parts

    def reduced_over_processes(self) -> _Sums:
        """Those of all processes together."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for part in self._parts:
                torch.distributed.all_reduce(part)
        return self

    def solve(self, rank: int) -> _Solution:
        """The map of at most a rank with the least squared error (ridge for stability)."""
        if not self._parts:
            raise CdlError("a bridge is fitted to images, and there are none")
        count, sum_x, sum_t, xx, xt, tt = self._parts
        mean_x, mean_t = sum_x / count, sum_t / count
        xx, xt = xx / count - mean_x.outer(mean_x), xt / count - mean_x.outer(mean_t)
        variance = (tt / count - mean_t**2).sum()
        xx.diagonal().add_(RIDGE * xx.diagonal().mean() + torch.finfo(xx.dtype).tiny)
        root = torch.linalg.cholesky(xx)  # x root^-T has unit covariance
        whitened = torch.linalg.solve_triangular(root, xt, upper=False)  # 9M, C k^2
        values, directions = torch.linalg.eigh(whitened @ whitened.T)  # ascending
        kept = directions[:, -rank:]
        reduce = torch.linalg.solve_triangular(root.T, kept, upper=True)
        expand = kept.T @ whitened
        explained = values[-rank:].sum() / variance
        return _Solution(reduce, expand, mean_t - mean_x @ reduce @ expand, float(explained))


def bridge_first_convolution(
    network: nn.Module, codec: Codec, width: int | None = None
) -> LinearBridge:
    """Put a LinearBridge in the place of a pixel network's first convolution.

    Args:
        network: has one convolution that reads pixels; is changed.
        codec, width: see LinearBridge.

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
    parent, bridge = network.get_submodule(path), LinearBridge(codec, convolution, width)
    setattr(parent, last, bridge)
    if hasattr(parent, "img_size"):
        parent.img_size = None  # timm's PatchEmbed checks sizes as those of pixels
    return bridge
