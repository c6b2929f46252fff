"""Augmentation in latent space, which is approximate: a latent position depends on others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from cdl_d2.errors import CdlError


class LatentAugmentation:
    """Resizing, cropping and flipping of latents, as in the training of cResNet-39.

    In evaluation the crop is the central one, without a flip. Cropping and flipping the image
    before encoding gives different, exact latents.

    Args:
        resize: positions per side after resizing.
        crop: positions per side of the crop.

    Raises:
        CdlError: if the crop is not between 1 and `resize`.
    """

    def __init__(self, resize: int = 32, crop: int = 28):
        if not 1 <= crop <= resize:
            raise CdlError(f"a crop of {crop} latent positions does not fit a latent of {resize}")
        self._resize, self._crop = resize, crop

    def resize(self, latent: torch.Tensor) -> torch.Tensor:
        """Resize C x h x w to C x resize x resize, bilinearly."""
        size = (self._resize, self._resize)
        return F.interpolate(latent[None], size, mode="bilinear", align_corners=False)[0]

    def __call__(self, latents: Sequence[torch.Tensor], training: bool) -> list[torch.Tensor]:
        """Augment tensors N x C x h x w to N x C x crop x crop, alike, but images differently."""
        images = [
            self._crop_and_flip([self.resize(x[n]) for x in latents], training)
            for n in range(len(latents[0]))
        ]
        return [torch.stack(tensors) for tensors in zip(*images, strict=True)]

    def _crop_and_flip(self, latents: list[torch.Tensor], training: bool) -> list[torch.Tensor]:
        margin = self._resize - self._crop
        top = left = margin // 2
        flip = False
        if training:
            top, left = torch.randint(margin + 1, (2,)).tolist()
            flip = bool(torch.randint(2, ()))
        crops = [x[:, top : top + self._crop, left : left + self._crop] for x in latents]
        return [x.flip(2) for x in crops] if flip else crops
