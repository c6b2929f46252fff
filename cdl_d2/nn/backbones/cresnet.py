"""ResNets without what works on more than 28 x 28 cells: cResNet-39 and cResNet-51.

They are named by the convolutions of their bottlenecks (*Towards image understanding from deep
compression without decoding*, arXiv 1803.06131), whose latents have 28 x 28 cells of 8 x 8 pixels.
The codecs here have cells of 16 x 16, so that latents are enlarged, see LatentAugmentation.
"""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models.resnet import Bottleneck

from cdl_d2.codec.io.state_dicts import fit_names
from cdl_d2.codec.io.weights_file import load_state_dict
from cdl_d2.errors import CdlError
from cdl_d2.nn.backbones.latent_resnet import NORMS, initialize_convolution
from cdl_d2.nn.input.latent_input import LatentInput

IN_RESNET = "layer4.0.conv1.weight"  # tells torchvision's ResNets
STAGES = {"conv3": "layer2", "conv4": "layer3", "conv5": "layer4"}  # names in torchvision's ResNet
READS_LATENT = ("conv3.0.conv1.", "conv3.0.downsample.0.")  # without an entrance


class CResNet(nn.Module):
    """conv3 to conv5 of a ResNet-50, and what leads a latent into it.

    ```
    y_hat      -> block (128 channels) -.
                                        +-> conv3 (512) -> conv4 (1024, /2) -> conv5 (2048, /2)
    scales_hat -> block (128 channels) -'
    ```

    With an entrance (table 2 of the study of learned compression for vision pipelines) a residual
    block reads y_hat and one the scales that the entropy model predicts for it. Without, conv3
    reads y_hat alone, as in the first paper.

    Args:
        input_layer: checks y_hat; knows the number of latent channels.
        entrance: whether there is one.
        with_scales: without, y_hat alone enters, through a block of 256 channels.
        log_scales: whether scales enter as log(1 + scales), since they span several orders of
            magnitude, or as they are; the study does not say which.
        conv4_blocks: 6 give a cResNet-39. Of cResNet-51 the paper says that it has more of them, as
            many as make it as costly as a ResNet-50; its name leaves 10.
        width: scales all channels.
        norm: see LatentResNet.
    """

    def __init__(
        self,
        input_layer: LatentInput,
        *,
        entrance: bool = True,
        with_scales: bool = True,
        log_scales: bool = True,
        conv4_blocks: int = 6,
        width: float = 1.0,
        norm: str = "BN",
    ):
        super().__init__()
        if norm not in NORMS:
            raise CdlError(f"norm {norm!r} is not one of {', '.join(NORMS)}")
        self._norm = NORMS[norm]
        self.input, self.with_scales = input_layer, with_scales and entrance
        self._log_scales = log_scales
        planes, channels = int(64 * width), input_layer.channels
        self.latent_block = nn.Identity()
        if entrance:
            each = planes // 2 if with_scales else planes
            self.latent_block = self._stage(channels, each, 1)
            if with_scales:
                self.scales_block = self._stage(channels, each, 1)
            channels = 4 * planes
        self.conv3 = self._stage(channels, 2 * planes, 4)
        self.conv4 = self._stage(8 * planes, 4 * planes, conv4_blocks, stride=2)
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
            if self._log_scales:
                scales_hat = scales_hat.clamp(min=0).log1p()
            features = torch.cat([features, self.scales_block(scales_hat)], dim=1)
        c4 = self.conv4(self.conv3(features))
        return {"c4": c4, "c5": self.conv5(c4)}

    def load_resnet50(self, path: str) -> int:
        """Start conv3 to conv5 from a torchvision ResNet-50 without its first 11 layers; how many
        entries were loaded. Blocks of conv4 beyond its six, and without an entrance the first
        convolutions, which read other channels, stay random.

        Raises:
            FileNotFoundError, CdlError: if the file is missing or its shapes do not fit.
        """
        theirs, ours = fit_names(load_state_dict(path), [IN_RESNET]), self.state_dict()
        renamed = {
            key.replace(f"{layer}.", f"{stage}.", 1): value
            for stage, layer in STAGES.items()
            for key, value in theirs.items()
            if key.startswith(f"{layer}.")
        }
        if isinstance(self.latent_block, nn.Identity):
            renamed = {k: v for k, v in renamed.items() if not k.startswith(READS_LATENT)}
        wrong = [k for k, v in renamed.items() if k not in ours or ours[k].shape != v.shape]
        if wrong or not renamed:
            raise CdlError(
                f"{path} does not fit a cResNet ({wrong[0] if wrong else 'no layer2 to layer4'}): "
                "expected a ResNet-50 of torchvision, and width 1"
            )
        self.load_state_dict(renamed, strict=False)
        return len(renamed)
