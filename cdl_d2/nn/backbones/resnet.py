"""ResNet-50 for latents, and a narrow one for images.

Sections 3.2.1 and 3.3.1, tables 1, 5 and 6, figure 2 of *Learning in Compressed Domain via
Knowledge Transfer*.

Shapes: N images, M latent channels, h x w latent positions of 16 x 16 pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d

from cdl_d2.errors import CdlError, check_choice
from cdl_d2.nn.input.latent_input import LatentInput


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a GroupNorm of 32 groups, or of fewer if channels are no multiple of 32."""
    return nn.GroupNorm(math.gcd(32, channels), channels)


Norm = Callable[[int], nn.Module]
NORMS: dict[str, Norm] = {
    "BN": nn.BatchNorm2d,
    "GN": group_norm,
    "FrozenBN": FrozenBatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
}
STEMS = ("residual", "conv1x1", "none")


class LatentResNet(nn.Module):
    """Trunk of all tasks: stem, conv4 in three sub-stages, conv5.

    ```
    y_hat (16) -> input -> stem -> conv4_1 -> conv4_2 -> conv4_3 -> conv5 (32)
    ```

    Args:
        input_layer: checks and normalizes y_hat, whose number of channels it has.
        stem: `residual`, three basic blocks with M channels; `conv1x1`, one convolution to
            512 * width channels (table 6); or `none`, conv4 reads the latent itself.
        conv4_blocks: number of bottlenecks in each sub-stage of conv4.
        conv5_blocks: number of bottlenecks in conv5; the first has stride 2.
        width: factor of the channels of conv4 (1024), conv5 (2048) and of the 1x1 stem (512).
        norm: `BN`, `GN` (32 groups, for small batches), `FrozenBN` or `SyncBN`.

    Attributes:
        transfer_layers: last blocks of the stages at strides 16 and 32, `c4` and `c5`.

    Raises:
        CdlError: for an unknown stem or norm, a stage without blocks, or a width without channels.
    """

    def __init__(
        self,
        input_layer: LatentInput,
        *,
        stem: str = "residual",
        conv4_blocks: Sequence[int] = (3, 4, 6),
        conv5_blocks: int = 3,
        width: float = 1.0,
        norm: str = "BN",
    ):
        super().__init__()
        check_choice("stem", stem, STEMS)
        check_choice("norm", norm, NORMS)
        if len(conv4_blocks) != 3 or min(*conv4_blocks, conv5_blocks) < 1:
            raise CdlError(
                f"blocks {tuple(conv4_blocks)} and {conv5_blocks}: three sub-stages of conv4 and "
                "conv5 need at least one block each"
            )
        if int(256 * width) < 1:
            raise CdlError(f"width {width} leaves conv4 without channels: give at least 1/256")
        self.input, layer = input_layer, NORMS[norm]
        channels = input_layer.channels
        if stem == "residual":
            self.stem = nn.Sequential(
                *(BasicBlock(channels, channels, norm_layer=layer) for _ in range(3))
            )
        elif stem == "none":
            self.stem = nn.Identity()
        else:
            self.stem = nn.Conv2d(channels, int(512 * width), kernel_size=1)
            channels = self.stem.out_channels
        planes4, planes5 = int(256 * width), int(512 * width)
        self.conv4_1 = bottleneck_stage(channels, planes4, conv4_blocks[0], layer)
        self.conv4_2 = bottleneck_stage(planes4 * 4, planes4, conv4_blocks[1], layer)
        self.conv4_3 = bottleneck_stage(planes4 * 4, planes4, conv4_blocks[2], layer)
        self.conv5 = bottleneck_stage(planes4 * 4, planes5, conv5_blocks, layer, stride=2)
        self.conv4_channels, self.conv5_channels = planes4 * 4, planes5 * 4
        self.apply(initialize_convolution)

    @property
    def transfer_layers(self) -> dict[str, nn.Module]:
        return {"c4": self.conv4_3[-1], "c5": self.conv5[-1]}

    def forward(self, y_hat: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the features of figure 2 from y_hat, N x M x h x w.

        Returns:
            c4_1, c4_2 and c4: N x 1024 * width x h x w; c5: N x 2048 * width x h/2 x w/2.
        """
        c4_1 = self.conv4_1(self.stem(self.input(y_hat)))
        c4_2 = self.conv4_2(c4_1)
        c4 = self.conv4_3(c4_2)
        return {"c4_1": c4_1, "c4_2": c4_2, "c4": c4, "c5": self.conv5(c4)}


class LatentPyramidTrunk(nn.Module):
    """Latent ResNet with an RGB ResNet's outputs, for a feature pyramid network.

    A 1x1 convolution and a pixel shuffle upsample c4_1 to res2 (stride 4, 128 * width channels) and
    c4_2 to res3 (8, 512 * width). c4 is res4 (16, 1024 * width), c5 is res5 (32, 2048 * width).

    Args:
        trunk: the latent ResNet.
        out_features: names of the outputs; a pyramid from P3 needs no res2.

    Raises:
        CdlError: for an unknown feature.
    """

    strides = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}

    def __init__(self, trunk: LatentResNet, out_features: Sequence[str] = tuple(strides)):
        super().__init__()
        unknown = set(out_features) - set(self.strides)
        if unknown:
            raise CdlError(
                f"a latent ResNet has no feature {min(unknown)!r}, only {', '.join(self.strides)}"
            )
        self.trunk = trunk
        width = trunk.conv5_channels
        channels = {
            "res2": width // 16,
            "res3": width // 4,
            "res4": trunk.conv4_channels,
            "res5": width,
        }
        self.channels = {name: channels[name] for name in channels if name in out_features}

        def upsample(name: str, factor: int) -> nn.Module | None:
            if name not in self.channels:
                return None
            convolution = nn.Conv2d(trunk.conv4_channels, width, kernel_size=1)
            return nn.Sequential(convolution, nn.PixelShuffle(factor))

        self.upsample4, self.upsample2 = upsample("res2", 4), upsample("res3", 2)
        for upsampling in filter(None, (self.upsample4, self.upsample2)):
            initialize_convolution(upsampling[0])

    def forward(self, y_hat: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the `out_features` of y_hat, N x M x h x w with even h and w."""
        features, pyramid = self.trunk(y_hat), {}
        if self.upsample4 is not None:
            pyramid["res2"] = self.upsample4(features["c4_1"])
        if self.upsample2 is not None:
            pyramid["res3"] = self.upsample2(features["c4_2"])
        if "res4" in self.channels:
            pyramid["res4"] = features["c4"]
        if "res5" in self.channels:
            pyramid["res5"] = features["c5"]
        return pyramid


class LatentClassifier(nn.Module):
    """Trunk, average pooling and a fully connected layer (table 5).

    Args:
        trunk: a LatentResNet, or a CResNet, which reads scales as well.
        num_classes: number of classes.
    """

    def __init__(self, trunk: nn.Module, num_classes: int = 1000):
        super().__init__()
        self.trunk = trunk
        self.fc = nn.Linear(trunk.conv5_channels, num_classes)

    @property
    def transfer_layers(self) -> dict[str, nn.Module]:
        return self.trunk.transfer_layers

    def forward(self, *latents: torch.Tensor) -> torch.Tensor:
        """Compute class logits, N x num_classes, of y_hat (and scales_hat), N x M x h x w."""
        return self.fc(self.trunk(*latents)["c5"].mean(dim=(2, 3)))


class NarrowResNet(ResNet):
    """torchvision's ResNet-50 with fewer channels behind its stem, to train on a CPU.

    Bottlenecks are half as wide as their outputs, not a quarter: group norms need channels.

    Args:
        width: factor of the channels of ResNet-50's stages.
        num_classes: number of outputs.
        norm_layer: function from a number of channels to a normalization; default BatchNorm.
    """

    def __init__(self, width: float, num_classes: int = 1000, norm_layer: Norm | None = None):
        self._width = width
        super().__init__(Bottleneck, [3, 4, 6, 3], width_per_group=128, norm_layer=norm_layer)
        self.fc = nn.Linear(int(512 * width) * Bottleneck.expansion, num_classes)

    def _make_layer(self, block, planes, *args, **kwargs):
        return super()._make_layer(block, int(planes * self._width), *args, **kwargs)


def bottleneck_stage(
    channels: int,
    planes: int,
    blocks: int,
    norm: Norm,
    stride: int = 1,
    projection: bool | None = None,
) -> nn.Sequential:
    """Build a ResNet stage of bottlenecks with `planes` channels inside and 4 * planes outside.

    The first one has the stride, and by default a projection shortcut where the shape changes.
    """
    out = planes * Bottleneck.expansion
    if projection is None:
        projection = stride != 1 or channels != out
    shortcut = None
    if projection:
        convolution = nn.Conv2d(channels, out, kernel_size=1, stride=stride, bias=False)
        shortcut = nn.Sequential(convolution, norm(out))
    first = Bottleneck(channels, planes, stride, shortcut, norm_layer=norm)
    following = (Bottleneck(out, planes, norm_layer=norm) for _ in range(blocks - 1))
    return nn.Sequential(first, *following)


def initialize_convolution(module: nn.Module) -> None:
    """Apply torchvision's He initialization to a convolution; leave other modules unchanged."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
