"""What a codec minimizes while it learns: rate, distortion, and what a discriminator says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from cdl_d2.codec.learning.adversarial import Discriminator, discriminator_loss, generator_loss
from cdl_d2.codec.learning.distortion import Distortion
from cdl_d2.codec.learning.rate_control import RateControl
from cdl_d2.codec.learning.trainable import CodedImages


class CodecObjective(nn.Module):
    """The codec's part of *Analysis on Compressed Domain: A Multi-Task Learning Approach*:

    ```
    L_EGP = lambda R + d(x, x') + k_MSE |x - x'|^2 - beta log D(x', y')
    L_D   = -log(1 - D(x', y')) - log D(x, y')
    ```

    Discriminator and codec learn in the same step, from one pass over the decoded images; neither
    moves the other by its own loss.

    Args:
        rate: lambda, or what steers it to a target.
        mse_weight: k_MSE, of the squared error on the 0..255 scale.
        distortion: d; None for none.
        discriminator: D; None for none.
        adversarial_weight: beta.
        adversarial_from: the iteration from which on D learns and counts.
    """

    def __init__(
        self,
        rate: float | RateControl,
        mse_weight: float = 0.0,
        distortion: Distortion | None = None,
        discriminator: Discriminator | None = None,
        adversarial_weight: float = 0.0,
        adversarial_from: int = 0,
    ):
        super().__init__()
        self.rate, self.distortion, self.discriminator = rate, distortion, discriminator
        self._mse_weight, self._adversarial_weight = mse_weight, adversarial_weight
        self._adversarial_from = adversarial_from

    def forward(
        self, images: torch.Tensor, coded: CodedImages, iteration: int
    ) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        """Losses, weighted, and what is worth watching.

        Args:
            images: N x 3 x H x W, RGB in [0, 1].
            coded: what the codec made of them.
            iteration: of the training, from 0.

        Returns:
            `loss_rate`, `loss_distortion` and, once the discriminator counts, `loss_adversarial`
            and `loss_discriminator`; and unweighted numbers under `codec/`.
        """
        bpp = float(coded.quantized_bits_per_pixel)
        steered = isinstance(self.rate, RateControl)
        weight = self.rate.weight(bpp, iteration) if steered else self.rate
        losses = {
            "loss_rate": weight * coded.bits_per_pixel,
            "loss_distortion": self._mse_weight * coded.distortion,
        }
        watched = {"bpp": bpp, "mse": float(coded.distortion.detach())}
        if self.distortion is not None:
            terms = self.distortion(images, coded.x_hat)
            losses["loss_distortion"] = losses["loss_distortion"] + terms.total
            for name in ("mae", "ssim", "perceptual"):
                if (term := getattr(terms, name)) is not None:
                    watched[name] = float(term.detach())
        if self.discriminator is not None and iteration >= self._adversarial_from:
            losses |= self._adversarial(self.discriminator, images, coded)
        return losses, {f"codec/{name}": value for name, value in watched.items()}

    def warn_if_missed(self) -> None:
        """After a training: warn of a rate that was not reached."""
        if isinstance(self.rate, RateControl):
            self.rate.warn_if_missed()

    def _adversarial(
        self, judge: Discriminator, images: torch.Tensor, coded: CodedImages
    ) -> dict[str, torch.Tensor]:
        with frozen([judge]):
            fooled = generator_loss(judge(coded.x_hat, coded.y_hat))
        real, fake = judge(images, coded.y_hat), judge(coded.x_hat.detach(), coded.y_hat)
        return {
            "loss_adversarial": self._adversarial_weight * fooled,
            "loss_discriminator": discriminator_loss(real, fake),
        }


@contextmanager
def frozen(networks: Sequence[nn.Module], enabled: bool = True) -> Iterator[None]:
    """Freeze networks within the context, if enabled; gradients still pass through them."""
    if not enabled:
        yield
        return
    learning = [p for network in networks for p in network.parameters() if p.requires_grad]
    modes = [(part, part.training) for network in networks for part in network.modules()]
    for parameter in learning:
        parameter.requires_grad_(False)
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
        for parameter in learning:
            parameter.requires_grad_(True)
