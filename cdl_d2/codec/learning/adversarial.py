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
LATENT_FEATURES = 12  # channels of the projected latent


class Discriminator(nn.Module):
    """Conditional patch discriminator of images, given their latents.

    *High-Fidelity Generative Image Compression*, arXiv 2006.09965, appendix A.2:

    ```
    y_hat -> stop gradient -> 3x3 conv -> nearest neighbour x 16 -+
    image --------------------------------------------------------+-> 4 convs, 4x4 -> 1x1 -> logits
    ```

    Convolutions have spectral normalization.

    Args:
        latent_channels: C.
        width: output channels of the first convolution on the image.
    """

    def __init__(self, latent_channels: int, width: int = 64):
        super().__init__()
        self.latent = spectral_norm(nn.Conv2d(latent_channels, LATENT_FEATURES, 3, padding=1))
        layers, channels = [], 3 + LATENT_FEATURES
        for i, stride in enumerate((2, 2, 2, 1)):
            conv = nn.Conv2d(channels, width * 2**i, 4, stride, padding=1)
            layers += [spectral_norm(conv), nn.LeakyReLU(SLOPE)]
            channels = conv.out_channels
        self.image = nn.Sequential(*layers, spectral_norm(nn.Conv2d(channels, 1, 1)))

    def forward(self, image: torch.Tensor, y_hat: torch.Tensor) -> torch.Tensor:
        """Return logits, N x 1 x about H/8 x W/8, positive for patches classified as real.

        Args:
            image: N x 3 x H x W, RGB in [0, 1], at least 16 pixels per side.
            y_hat: N x C x ceil(H/16) x ceil(W/16); gradients do not pass to it.
        """
        features = F.leaky_relu(self.latent(y_hat.detach()), SLOPE)
        features = F.interpolate(features, scale_factor=STRIDE, mode="nearest")
        features = features[..., : image.shape[2], : image.shape[3]]
        return self.image(torch.cat([2 * image - 1, features], dim=1))


def generator_loss(fake: torch.Tensor) -> torch.Tensor:
    """Return the mean non-saturating loss -log D(x', y'), given logits of reconstructions."""
    return F.softplus(-fake).mean()


def discriminator_loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Return -log D(x, y') - log(1 - D(x', y')), means over the logits of both."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()
