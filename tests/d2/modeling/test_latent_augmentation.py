import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from cdl_d2.d2.modeling.latent_augmentation import LatentAugmentation


def test_latents_and_scales_are_changed_alike_and_images_differently():
    latent = torch.rand(4, 3, 10, 12)
    first, second = LatentAugmentation(12, 8)([latent, 2 * latent], training=True)
    assert first.shape == (4, 3, 8, 8)
    assert torch.allclose(2 * first, second)
    same = latent[:1].expand(16, -1, -1, -1)
    crops = LatentAugmentation(12, 8)([same], training=True)[0]
    assert len({crop.sum().item() for crop in crops}) > 4


def test_evaluation_takes_the_central_crop_every_time():
    latent = torch.arange(36.0).reshape(1, 1, 6, 6)
    crops = [LatentAugmentation(6, 4)([latent], training=False)[0] for _ in range(2)]
    assert torch.equal(crops[0], crops[1])
    assert torch.equal(crops[0], latent[:, :, 1:5, 1:5])


@pytest.mark.parametrize("crop", [0, 33])
def test_a_crop_that_does_not_fit_is_named(crop):
    with pytest.raises(ValueError, match=f"crop of {crop} "):
        LatentAugmentation(32, crop)
