"""RGB ResNet with fewer channels, for small experiments."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet


class NarrowResNet(ResNet):
    """torchvision's ResNet-50 with fewer channels behind its stem, to train on a CPU.

    Bottlenecks are half as wide as their outputs, not a quarter: group norms need channels.

    Args:
        width: factor of the channels of ResNet-50's stages.
        num_classes: number of outputs.
        norm_layer: function from a number of channels to a normalization; default BatchNorm.
    """

    def __init__(
        self,
        width: float,
        num_classes: int = 1000,
        norm_layer: Callable[[int], nn.Module] | None = None,
    ):
        self._width = width
        super().__init__(Bottleneck, [3, 4, 6, 3], width_per_group=128, norm_layer=norm_layer)
        self.fc = nn.Linear(int(512 * width) * Bottleneck.expansion, num_classes)

    def _make_layer(self, block, planes, *args, **kwargs):
        return super()._make_layer(block, int(planes * self._width), *args, **kwargs)
