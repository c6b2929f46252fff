"""Augmentation in latent space: approximate, because a cell depends on its surroundings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from cdl_d2.errors import CdlError


class LatentAugmentation:
    """Resize to `resize` cells a side, crop `crop` cells, flip, as cResNet-39 was trained.

    In evaluation the crop is the central one and nothing is flipped. Cropping and flipping the
    image before it is encoded gives other, exact latents.

    Raises:
        CdlError: if the crop is not between 1 cell and the resized latent.
    """

    def __init__(self, resize: int = 32, crop: int = 28):
        if not 1 <= crop <= resize:
            raise CdlError(f"a crop of {crop} cells does not fit a latent of {resize} cells")
        self._resize, self._crop = resize, crop

    def resize(self, latent: torch.Tensor) -> torch.Tensor:
        """C x h x w to C x resize x resize, bilinear."""
        size = (self._resize, self._resize)
        return F.interpolate(latent[None], size, mode="bilinear", align_corners=False)[0]

    def __call__(self, latents: Sequence[torch.Tensor], training: bool) -> list[torch.Tensor]:
        """The same change to each of several N x C x h x w tensors, another for each image.

        Returns:
            N x C x crop x crop tensors.
        """
        changed = [
            self._change([self.resize(x[n]) for x in latents], training)
            for n in range(len(latents[0]))
        ]
        return [torch.stack(each) for each in zip(*changed, strict=True)]

    def _change(self, latents: list[torch.Tensor], training: bool) -> list[torch.Tensor]:
        room = self._resize - self._crop
        top = left = room // 2
        flip = False
        if training:
            top, left = torch.randint(room + 1, (2,)).tolist()
            flip = bool(torch.randint(2, ()))
        crops = [x[:, top : top + self._crop, left : left + self._crop] for x in latents]
        return [x.flip(2) for x in crops] if flip else crops
