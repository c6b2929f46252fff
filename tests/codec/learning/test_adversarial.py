import pytest
import torch

from cdl_d2.codec.learning.adversarial import Discriminator, discriminator_loss, generator_loss
from cdl_d2.codec.learning.trainable import PARTS, TrainableCodec
from tests.conftest import small_codec


@pytest.fixture
def discriminator():
    return Discriminator(latent_channels=208, width=8)


@pytest.mark.parametrize("size", [(64, 64), (50, 70), (16, 16)])
def test_images_of_any_size_get_a_logit_per_patch(discriminator, size):
    grid = [-(-side // 16) for side in size]
    logits = discriminator(torch.rand(2, 3, *size), torch.randn(2, 208, *grid))
    assert logits.shape[:2] == (2, 1)
    assert all(0 < n <= side // 8 for n, side in zip(logits.shape[2:], size, strict=True))


def test_a_frozen_discriminator_passes_gradients_to_the_codec_only(discriminator):
    trainable = TrainableCodec(small_codec("zhang2022-layered"), "straight-through", PARTS)
    coded = trainable(torch.rand(2, 3, 64, 64))
    discriminator.requires_grad_(False)
    generator_loss(discriminator(coded.x_hat, coded.y_hat)).backward()
    assert all(p.grad is None for p in discriminator.parameters())
    parameters = trainable.network.named_parameters()
    assert {"g_a", "g_s"} <= {n.split(".")[0] for n, p in parameters if p.grad is not None}


def test_a_latent_gets_no_gradient_from_the_discriminator(discriminator):
    y_hat = torch.randn(2, 208, 4, 4, requires_grad=True)
    image = torch.rand(2, 3, 64, 64, requires_grad=True)
    discriminator(image, y_hat).sum().backward()
    assert y_hat.grad is None and image.grad.any()


def test_logits_depend_on_the_latent(discriminator):
    image = torch.rand(1, 3, 64, 64)
    first, second = (discriminator.eval()(image, torch.randn(1, 208, 4, 4)) for _ in range(2))
    assert not torch.allclose(first, second)


def test_training_the_discriminator_lowers_its_loss_and_raises_the_generators(discriminator):
    real, fake = torch.rand(4, 3, 32, 32), torch.full((4, 3, 32, 32), 0.5)
    y_hat, optimizer = torch.zeros(4, 208, 2, 2), torch.optim.Adam(discriminator.parameters(), 1e-3)
    losses = []
    for _ in range(10):
        loss = discriminator_loss(discriminator(real, y_hat), discriminator(fake, y_hat))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append((float(loss), float(generator_loss(discriminator(fake, y_hat)))))
    assert losses[-1][0] < losses[0][0] and losses[-1][1] > losses[0][1]


def test_losses_are_the_logarithms_of_probabilities():
    real, fake = torch.randn(3, 1, 4, 4), torch.randn(3, 1, 4, 4)
    expected = -(real.sigmoid().log().mean() + (1 - fake.sigmoid()).log().mean())
    assert torch.allclose(discriminator_loss(real, fake), expected)
    assert torch.allclose(generator_loss(fake), -fake.sigmoid().log().mean())
