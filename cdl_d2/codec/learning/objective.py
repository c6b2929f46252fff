"""Training objective of a codec: rate, distortion and adversarial loss."""

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
    """Codec losses of *Analysis on Compressed Domain: A Multi-Task Learning Approach*.

    ```
    L_EGP = lambda R + d(x, x') + k_MSE |x - x'|^2 - beta log D(x', y')
    L_D   = -log(1 - D(x', y')) - log D(x, y')
    ```

    Discriminator and codec are trained in the same step, from one pass over the reconstructions;
    the loss of either has no gradient in the other.

    Args:
        rate: lambda, or the control that sets it for a target rate.
        mse_weight: k_MSE, for the squared error on the 0..255 scale.
        distortion: d; None to leave it out.
        discriminator: D; None to leave it out.
        adversarial_weight: beta.
        adversarial_from: first iteration in which D is trained and used.
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
        """Return weighted losses and unweighted metrics.

        Args:
            images: N x 3 x H x W, RGB in [0, 1].
            coded: the codec's output for these images.
            iteration: iteration of the training, counted from 0.

        Returns:
            `loss_rate`, `loss_distortion` and, once the discriminator is used, `loss_adversarial`
            and `loss_discriminator`; and metrics named `codec/...`.
        """
        bpp = float(coded.quantized_bits_per_pixel)
        weight = self.rate
        if isinstance(weight, RateControl):
            weight = weight.weight(bpp, iteration)
        losses = {
            "loss_rate": weight * coded.bits_per_pixel,
            "loss_distortion": self._mse_weight * coded.distortion,
        }
        metrics = {"bpp": bpp, "mse": float(coded.distortion.detach())}
        if self.distortion is not None:
            terms = self.distortion(images, coded.x_hat)
            losses["loss_distortion"] = losses["loss_distortion"] + terms.total
            for name in ("mae", "ssim", "perceptual"):
                if (term := getattr(terms, name)) is not None:
                    metrics[name] = float(term.detach())
        if self.discriminator is not None and iteration >= self._adversarial_from:
            losses |= self._adversarial(self.discriminator, images, coded)
        return losses, {f"codec/{name}": value for name, value in metrics.items()}

    def warn_if_missed(self) -> None:
        """Log a warning if a target rate was not reached."""
        if isinstance(self.rate, RateControl):
            self.rate.warn_if_missed()

    def _adversarial(
        self, discriminator: Discriminator, images: torch.Tensor, coded: CodedImages
    ) -> dict[str, torch.Tensor]:
        with frozen([discriminator]):
            loss = generator_loss(discriminator(coded.x_hat, coded.y_hat))
        real = discriminator(images, coded.y_hat)
        fake = discriminator(coded.x_hat.detach(), coded.y_hat)
        return {
            "loss_adversarial": self._adversarial_weight * loss,
            "loss_discriminator": discriminator_loss(real, fake),
        }


@contextmanager
def frozen(networks: Sequence[nn.Module], enabled: bool = True) -> Iterator[None]:
    """Freeze networks within the context, if enabled; gradients pass through to their inputs."""
    if not enabled:
        yield
        return
    trained = [p for network in networks for p in network.parameters() if p.requires_grad]
    modes = [(module, module.training) for network in networks for module in network.modules()]
    for parameter in trained:
        parameter.requires_grad_(False)
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter in trained:
            parameter.requires_grad_(True)
