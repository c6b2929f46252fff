"""cResNet-39, which reads y_hat and the scales that the entropy model predicts for it.

Table 2 of the study of learned compression for vision pipelines. 28 x 28 cells are usual; the
13 bottlenecks of three convolutions give the network its name.
"""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models.resnet import Bottleneck

from cdl_d2.codec.weights_file import load_state_dict
from cdl_d2.errors import CdlError
from cdl_d2.nn.latent_input import LatentInput
from cdl_d2.nn.latent_resnet import NORMS, initialize_convolution

STAGES = {"conv3": "layer2", "conv4": "layer3", "conv5": "layer4"}  # names in torchvision's ResNet


class CResNet39(nn.Module):
    """One residual block for y_hat, one for the scales, concatenated, then conv3 to conv5.

    ```
    y_hat      -> block (128 channels) -.
                                        +-> conv3 (512) -> conv4 (1024, /2) -> conv5 (2048, /2)
    scales_hat -> block (128 channels) -'
    ```

    Scales enter as log(1 + scales), because they span several orders of magnitude.

    Args:
        input_layer: checks y_hat; knows the number of latent channels.
        with_scales: without, y_hat alone enters, through a block of 256 channels.
        width: scales all channels.
        norm: see LatentResNet.
    """

    def __init__(
        self,
        input_layer: LatentInput,
        *,
        with_scales: bool = True,
        width: float = 1.0,
        norm: str = "BN",
    ):
        super().__init__()
        if norm not in NORMS:
            raise CdlError(f"norm {norm!r} is not one of {', '.join(NORMS)}")
        self._norm = NORMS[norm]
        self.input, self.with_scales = input_layer, with_scales
        planes = int(64 * width)
        entrance = planes // 2 if with_scales else planes
        self.latent_block = self._stage(input_layer.channels, entrance, 1)
        if with_scales:
            self.scales_block = self._stage(input_layer.channels, entrance, 1)
        self.conv3 = self._stage(4 * planes, 2 * planes, 4)
        self.conv4 = self._stage(8 * planes, 4 * planes, 6, stride=2)
        self.conv5 = self._stage(16 * planes, 8 * planes, 3, stride=2)
        self.conv5_channels = 32 * planes
        self.apply(initialize_convolution)

    def _stage(self, channels: int, planes: int, blocks: int, stride: int = 1) -> nn.Sequential:
        out = planes * Bottleneck.expansion
        shortcut = nn.Sequential(
            nn.Conv2d(channels, out, kernel_size=1, stride=stride, bias=False), self._norm(out)
        )
        first = Bottleneck(channels, planes, stride, shortcut, norm_layer=self._norm)
        rest = (Bottleneck(out, planes, norm_layer=self._norm) for _ in range(blocks - 1))
        return nn.Sequential(first, *rest)

    def forward(
        self, y_hat: torch.Tensor, scales_hat: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """From y_hat and scales_hat, each N x M x h x w, to c4 and c5.

        Raises:
            CdlError: if scales are needed and missing.
        """
        features = self.latent_block(self.input(y_hat))
        if self.with_scales:
            if scales_hat is None:
                raise CdlError(
                    "this network reads scales beside latents: encode images, or store bitstreams "
                    "(a store of arrays has no scales)"
                )
            features = torch.cat(
                [features, self.scales_block(scales_hat.clamp(min=0).log1p())], dim=1
            )
        c4 = self.conv4(self.conv3(features))
        return {"c4": c4, "c5": self.conv5(c4)}

    def load_resnet50(self, path: str) -> int:
        """Start conv3 to conv5 from a torchvision ResNet-50; how many entries were loaded.

        Raises:
            FileNotFoundError, CdlError: if the file is missing or its shapes do not fit.
        """
        theirs, ours = load_state_dict(path), self.state_dict()
        renamed = {
            key.replace(f"{layer}.", f"{stage}.", 1): value
            for stage, layer in STAGES.items()
            for key, value in theirs.items()
            if key.startswith(f"{layer}.")
        }
        wrong = [k for k, v in renamed.items() if k not in ours or ours[k].shape != v.shape]
        if wrong or not renamed:
            raise CdlError(
                f"{path} does not fit cResNet-39 ({wrong[0] if wrong else 'no layer2 to layer4'}): "
                "expected a ResNet-50 of torchvision, and width 1"
            )
        self.load_state_dict(renamed, strict=False)
        return len(renamed)
