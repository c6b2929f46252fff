"""A discriminator of reconstructions, and the losses of both sides.

Shapes: N images of H x W pixels, C latent channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from cdl_d2.codec.latent import STRIDE

SLOPE = 0.2  # of LeakyReLU
SHOWN = 12  # channels that the latent is shown as


class Discriminator(nn.Module):
    """Looks at an image, knowing its latent, and says patch by patch whether it is real
    (*High-Fidelity Generative Image Compression*, arXiv 2006.09965, appendix A.2).

    ```
    y_hat -> stop gradient -> 3x3 conv -> nearest neighbour x 16 -+
    image --------------------------------------------------------+-> 4 convs, 4x4 -> 1x1 -> logits
    ```

    Convolutions have spectral normalization.

    Args:
        latent_channels: C.
        width: channels after the first convolution on the image.
    """

    def __init__(self, latent_channels: int, width: int = 64):
        super().__init__()
        self.latent = spectral_norm(nn.Conv2d(latent_channels, SHOWN, 3, padding=1))
        layers, channels = [], 3 + SHOWN
        for i, stride in enumerate((2, 2, 2, 1)):
            conv = nn.Conv2d(channels, width * 2**i, 4, stride, padding=1)
            layers += [spectral_norm(conv), nn.LeakyReLU(SLOPE)]
            channels = conv.out_channels
        self.image = nn.Sequential(*layers, spectral_norm(nn.Conv2d(channels, 1, 1)))

    def forward(self, image: torch.Tensor, y_hat: torch.Tensor) -> torch.Tensor:
        """Logits, N x 1 x about H/8 x W/8, above 0 where a patch looks real.

        Args:
            image: N x 3 x H x W, RGB in [0, 1], from 16 pixels a side up.
            y_hat: N x C x ceil(H/16) x ceil(W/16); it gets no gradient from here.
        """
        shown = F.leaky_relu(self.latent(y_hat.detach()), SLOPE)
        shown = F.interpolate(shown, scale_factor=STRIDE, mode="nearest")
        shown = shown[..., : image.shape[2], : image.shape[3]]
        return self.image(torch.cat([2 * image - 1, shown], dim=1))


def generator_loss(fake: torch.Tensor) -> torch.Tensor:
    """-log D(x', y'), non-saturating, from the logits of reconstructions; a mean."""
    return F.softplus(-fake).mean()


def discriminator_loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """-log D(x, y') - log(1 - D(x', y')), from logits of images and of reconstructions without
    their gradients; a sum of two means."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()
