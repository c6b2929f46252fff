"""Input adapter (bridge) from a latent to an intermediate stage of an RGB model.

Its layers are the first ones of the codec's decoder, or a transform module of *Semantic
Segmentation in Learned Compressed Domain* (figure 4), which this generalizes.

Shapes: N images, M latent channels, h x w latent positions of 16 x 16 pixels, C channels of the RGB
model's stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import nn

from cdl_d2.codec.codec import Codec
from cdl_d2.codec.latent import CODING_MULTIPLE
from cdl_d2.errors import CdlError
from cdl_d2.nn.backbones.resnet import initialize_convolution
from cdl_d2.nn.bridge.decoder_layers import DecoderLayers, decoder_layers
from cdl_d2.nn.bridge.input_adapter import InputAdapter
from cdl_d2.nn.bridge.regression import LinearMap, Regression, list_positions
from cdl_d2.nn.input.latent_input import LatentInput

KINDS = ("decoder", "deconv", "res")
FIRST_CONVOLUTION = "conv1"  # entry of a LinearBridge, which fits any RGB network
STAGE_STRIDES = {"stem": 4, "res2": 4, "res3": 8}  # entries of a Bridge: output stride in pixels
ENTRIES = (FIRST_CONVOLUTION, *STAGE_STRIDES)
WINDOW = 3  # kernel size of the projection
CALIBRATION_IMAGES = 8  # for the scales of a normalization without running statistics
Pair = tuple[torch.Tensor, torch.Tensor]


class Bridge(InputAdapter):
    """Upsampling of a latent to stride 4 or 8, with the channels of an RGB model's stage.

    ```
    y_hat (16) -> input -> first layers of g_s (8 or 4) -> 3x3 conv, norm, ReLU -> feature
    ```

    Args:
        codec: codec of the latents, whose decoder layers are copied.
        stride: stride of the output, in pixels.
        out_channels: number of output channels C.
        kind: `decoder`; or, for stride 4 and without the projection, `deconv`, two transposed
            convolutions of 5 x 5 with an inverse GDN between them, as in the hyperprior's decoder,
            or `res`, twice a residual block and one that upsamples by pixel shuffle, as in
            cheng2020's.
        width: channels between the two halves of `deconv` and `res`; default M.
        frozen: do not train the decoder's layers.
        norm: function from a number of channels to the projection's normalization; default none.
        is_rectified: the projection ends with the ReLU, as the replaced stage does.

    Raises:
        CdlError: for an unknown kind, or a decoder without this stride.
    """

    def __init__(
        self,
        codec: Codec,
        stride: int,
        out_channels: int,
        kind: str = "decoder",
        width: int | None = None,
        frozen: bool = False,
        norm: Callable[[int], nn.Module] | None = None,
        is_rectified: bool = True,
    ):
        super().__init__()
        self.stride, self.out_channels = stride, out_channels
        if kind not in KINDS:
            raise CdlError(f"bridge kind {kind!r} is not one of {', '.join(KINDS)}")
        self.input = LatentInput(codec.latent_channels, codec.identity)
        self.project = nn.Identity()
        if kind != "decoder":
            if stride != 4:
                raise CdlError(f"a bridge of kind {kind!r} ends at stride 4, not {stride}")
            self.layers = _transform_module(kind, codec.latent_channels, width, out_channels)
            return
        self.layers = decoder_layers(codec, stride).requires_grad_(not frozen)
        channels = self.layers(torch.zeros(1, codec.latent_channels, 2, 2)).shape[1]
        self.project = nn.Sequential(
            nn.Conv2d(channels, out_channels, WINDOW, padding=WINDOW // 2, bias=norm is None),
            nn.Identity() if norm is None else norm(out_channels),
            nn.ReLU() if is_rectified else nn.Identity(),
        )
        self.project.apply(initialize_convolution)

    def forward(self, y_hat: torch.Tensor) -> torch.Tensor:
        """Map y_hat, N x M x h x w, to features N x C x 16h/stride x 16w/stride.

        They are cropped to a batch's images; beyond each, they are the features of zero latents.
        """
        feature = self._convolve(y_hat)
        if self.margin or self.image_sizes:
            zeros = self._convolve(y_hat.new_zeros(1, y_hat.shape[1], 3, 3))[0]
            outside = zeros[:, zeros.shape[1] // 2, zeros.shape[2] // 2]
            feature = self.fit_batch(feature, y_hat.shape[2:], self.stride, outside)
        return self.project[1:](feature) if self.can_be_fitted else feature

    def _convolve(self, y_hat: torch.Tensor) -> torch.Tensor:
        """Return features before the normalization, whose statistics are those of the batch."""
        if self.grids is None:
            feature = self.layers(self.input(y_hat))
        else:
            feature = self.run_on_grids(y_hat, self.stride)
        return self.project[0](feature) if self.can_be_fitted else feature

    @property
    def can_be_fitted(self) -> bool:
        """Return True for the kind `decoder`, which ends with one convolution."""
        return isinstance(self.project, nn.Sequential)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        round_up = self.stride - 1  # of sides that may be symbols of a trace
        return (height + round_up) // self.stride, (width + round_up) // self.stride

    @torch.no_grad()
    def fit(self, pairs: Iterable[Pair]) -> float:
        """Fit the projection by least squares over all positions of a distributed run.

        The scales of its normalization are set so that, in evaluation, it has no effect; those of
        one without running statistics are the best ones for CALIBRATION_IMAGES.

        Args:
            pairs: y_hat, N x M x h x w, perhaps with margin, and the stage's features to reproduce,
                N x C x H' x W', of the first rows and columns of the bridge's output.

        Returns:
            the share of the features' variance that the map explains before the ReLU, at most 1.

        Raises:
            CdlError: without data, or if values are not finite; for a kind without a projection,
                or features of another size.
        """
        if not self.can_be_fitted:
            raise CdlError(
                "a transform module is trained: only a bridge of kind 'decoder' is fitted"
            )
        regression, kept = Regression(), []
        for y_hat, target in pairs:
            feature, (rows, columns) = self.layers(self.input(y_hat)), target.shape[2:]
            sides = zip(feature.shape[2:], (rows, columns), strict=True)
            if not all(0 <= own - side <= CODING_MULTIPLE / self.stride for own, side in sides):
                raise CdlError(
                    f"the stage has {rows} x {columns} positions, its bridge "
                    f"{feature.shape[2]} x {feature.shape[3]}: it needs a stride of {self.stride}"
                )
            windows = F.unfold(feature, WINDOW, padding=WINDOW // 2)
            windows = windows.unflatten(2, feature.shape[2:])[..., :rows, :columns]
            regression.add(list_positions(windows), list_positions(target))
            if len(kept) < CALIBRATION_IMAGES:
                kept.append((feature, target))
        solution = regression.sum_over_processes().solve(self.out_channels)
        convolution, norm, _ = self.project
        weight = (solution.reduce @ solution.expand).T
        convolution.weight.copy_(weight.reshape(convolution.weight.shape))
        if convolution.bias is not None:
            convolution.bias.copy_(solution.bias)
        elif getattr(norm, "running_mean", None) is not None:
            _skip_batch_norm(norm, solution)
        else:
            _calibrate(norm, [(convolution(feature), target) for feature, target in kept])
        return solution.explained


def _skip_batch_norm(norm: nn.Module, solution: LinearMap) -> None:
    """Let a batch normalization add the bias of a linear map, and nothing else."""
    variance = solution.expand.square().sum(0)
    norm.running_mean.copy_(solution.mean - solution.bias)
    norm.running_var.copy_(variance)
    norm.weight.data.copy_((variance + norm.eps).sqrt())
    norm.bias.data.copy_(solution.mean)


def _calibrate(norm: nn.Module, pairs: Iterable[Pair]) -> None:
    """Set the scale and the bias of each channel of a normalization by least squares.

    Args:
        norm: a normalization such as GroupNorm.
        pairs: its input, and the output to reproduce.
    """
    norm.weight.data.fill_(1)
    norm.bias.data.zero_()
    x, t = (
        torch.cat([*map(list_positions, side)]).double()
        for side in zip(
            *[
                (norm(feature)[..., : target.shape[2], : target.shape[3]], target)
                for feature, target in pairs
            ],
            strict=True,
        )
    )
    mean_x, mean_t = x.mean(0), t.mean(0)
    scale = ((x - mean_x) * (t - mean_t)).mean(0) / x.var(0, correction=0).clamp(min=1e-12)
    norm.weight.data.copy_(scale)
    norm.bias.data.copy_(mean_t - scale * mean_x)


def _transform_module(kind: str, channels: int, width: int | None, out: int) -> DecoderLayers:
    from compressai.layers import GDN, ResidualBlock, ResidualBlockUpsample
    from compressai.models.utils import deconv

    width = width or channels
    if kind == "deconv":
        layers = deconv(channels, width), GDN(width, inverse=True), deconv(width, out)
        return DecoderLayers(*layers)
    return DecoderLayers(
        ResidualBlock(channels, width),
        ResidualBlockUpsample(width, width, 2),
        ResidualBlock(width, width),
        ResidualBlockUpsample(width, out, 2),
    )
