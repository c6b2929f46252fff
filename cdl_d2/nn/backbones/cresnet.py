"""cResNet-39 and cResNet-51: ResNets without the stages at finer resolutions than the latent's.

*Towards image understanding from deep compression without decoding* (arXiv 1803.06131). The names
count the convolutions. The paper's latents have 28 x 28 positions of 8 x 8 pixels; those
of the codecs here cover 16 x 16 pixels, so that latents are upsampled before.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from cdl_d2.codec.io.state_dicts import fit_names
from cdl_d2.codec.io.weights_file import load_state_dict
from cdl_d2.errors import CdlError, check_choice
from cdl_d2.nn.backbones.resnet import NORMS, bottleneck_stage, initialize_convolution
from cdl_d2.nn.input.latent_input import LatentInput

RESNET_KEY = "layer4.0.conv1.weight"  # a key of all torchvision ResNets
STAGES = {"conv3": "layer2", "conv4": "layer3", "conv5": "layer4"}  # names in torchvision's ResNet
LATENT_LAYERS = ("conv3.0.conv1.", "conv3.0.downsample.0.")  # read the latent without an entrance


class CResNet(nn.Module):
    """conv3 to conv5 of a ResNet-50 behind an entrance for latents.

    ```
    y_hat      -> block (128 channels) -.
                                        +-> conv3 (512) -> conv4 (1024, /2) -> conv5 (2048, /2)
    scales_hat -> block (128 channels) -'
    ```

    With an entrance (table 2 of the study of learned compression for vision pipelines), a residual
    block reads y_hat, and another the standard deviations (scales) that the entropy model predicts.
    Without it, conv3 reads y_hat alone, as in the first paper.

    Args:
        input_layer: checks and normalizes y_hat, whose number of channels it has.
        entrance: add the entrance.
        with_scales: read scales; otherwise y_hat alone enters, through a block of 256 channels.
        log_scales: read scales as log(1 + scales), since they span several orders of magnitude; the
            study does not say.
        conv4_blocks: 6 for a cResNet-39. According to the paper, cResNet-51 has as many as make it
            as costly as a ResNet-50; by its name these are 10.
        width: factor of all channels.
        norm: `BN`, `GN`, `FrozenBN` or `SyncBN`.

    Attributes:
        transfer_layers: last blocks of the stages at strides 16 and 32, `c4` and `c5`.
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
        check_choice("norm", norm, NORMS)
        stage = partial(bottleneck_stage, norm=NORMS[norm], projection=True)
        self.input, self.with_scales = input_layer, with_scales and entrance
        self._log_scales = log_scales
        planes, channels = int(64 * width), input_layer.channels
        self.latent_block = nn.Identity()
        if entrance:
            block_planes = planes // 2 if with_scales else planes
            self.latent_block = stage(channels, block_planes, 1)
            if with_scales:
                self.scales_block = stage(channels, block_planes, 1)
            channels = 4 * planes
        self.conv3 = stage(channels, 2 * planes, 4)
        self.conv4 = stage(8 * planes, 4 * planes, conv4_blocks, stride=2)
        self.conv5 = stage(16 * planes, 8 * planes, 3, stride=2)
        self.conv5_channels = 32 * planes
        self.apply(initialize_convolution)

    @property
    def transfer_layers(self) -> dict[str, nn.Module]:
        return {"c4": self.conv4[-1], "c5": self.conv5[-1]}

    def forward(
        self, y_hat: torch.Tensor, scales_hat: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Compute c4 and c5 from y_hat and scales_hat, N x M x h x w each.

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
        """Initialize conv3 to conv5 from a torchvision ResNet-50.

        Random weights remain in blocks of conv4 after the sixth and, without an entrance, in the
        first convolutions, which read other channels.

        Returns:
            the number of loaded entries.

        Raises:
            FileNotFoundError, CdlError: if the file is missing or its shapes do not fit.
        """
        weights, own = fit_names(load_state_dict(path), [RESNET_KEY]), self.state_dict()
        renamed = {
            key.replace(f"{layer}.", f"{stage}.", 1): value
            for stage, layer in STAGES.items()
            for key, value in weights.items()
            if key.startswith(f"{layer}.")
        }
        if isinstance(self.latent_block, nn.Identity):
            renamed = {k: v for k, v in renamed.items() if not k.startswith(LATENT_LAYERS)}
        wrong = [k for k, v in renamed.items() if k not in own or own[k].shape != v.shape]
        if wrong or not renamed:
            raise CdlError(
                f"{path} does not fit a cResNet ({wrong[0] if wrong else 'no layer2 to layer4'}): "
                "expected a ResNet-50 of torchvision, and width 1"
            )
        self.load_state_dict(renamed, strict=False)
        return len(renamed)
