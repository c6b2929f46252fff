"""Preparation of images for an RGB network: resizing, cropping and normalization."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as T

from cdl_d2.errors import CdlError

SMALLEST_CROP = 0.35  # least share of an image's area in a random crop
ASPECT_RATIOS = 3 / 4, 4 / 3
SCALES = 0.75, 1.0  # random sizes of images that are not cropped, relative to evaluation


@dataclass(frozen=True)
class Preprocessing:
    """Resizing, cropping and normalization of RGB images, as in the network's evaluation.

    Attributes:
        mean: per-channel mean of the network's input, for images in [0, 1]; zeros for a network
            that normalizes its input itself.
        std: per-channel standard deviation; ones for such a network, 1/255 for one that expects
            0..255.
        short_edge: pixels to which the shorter side is resized; 0 keeps the size.
        max_size: upper limit of the longer side in pixels, which takes precedence; 0 for none.
        crop: side of the central square in pixels; 0 for the whole image.
        is_square: the whole image is resized to the square of `crop`, without regard to its aspect
            ratio, as for torchvision's SSD.
        interpolation: `bilinear` or `bicubic`.
        multiples: numbers of pixels, of whose multiples images that are not cropped have their
            height and width.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    short_edge: int = 0
    max_size: int = 0
    crop: int = 0
    is_square: bool = False
    interpolation: str = "bilinear"
    multiples: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        try:
            mean, std = (tuple(map(float, values)) for values in (self.mean, self.std))
        except (TypeError, ValueError):
            mean = std = ()
        is_valid = len(mean) == len(std) == 3 and all(0 <= m <= 1 for m in mean)
        if not is_valid or not all(0 < s < math.inf for s in std):
            raise CdlError(
                f"mean {self.mean} and std {self.std} of the network's input: expected three "
                "numbers each, for images in [0, 1], and no standard deviation of 0; divide those "
                "for images in 0..255 by 255"
            )
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)
        if min(self.short_edge, self.max_size, self.crop) < 0 or self.crop > self.short_edge > 0:
            raise CdlError(
                f"short edge {self.short_edge}, maximum size {self.max_size} and crop {self.crop}: "
                "expected pixels, and a crop within the short edge"
            )

    @classmethod
    def of_network(
        cls,
        network: nn.Module,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        **options: Any,
    ) -> Preprocessing:
        """Return the preprocessing that a network states, changed by arguments that are not None.

        timm's networks state theirs in `pretrained_cfg`, torchvision's detectors in `transform`;
        `image_size` of vision transformers of torchvision and transformers is their size alone.

        Raises:
            CdlError: if the network states none, and mean and std are not given.
        """
        values: dict[str, Any] = _stated(network)
        values |= {"mean": mean} if mean is not None else {}
        values |= {"std": std} if std is not None else {}
        if "mean" not in values or "std" not in values:
            raise CdlError(
                f"{type(network).__name__} does not state the range of its input: give mean and std"
                " for images in [0, 1]; (0, 0, 0) and (1, 1, 1) if it normalizes them itself"
            )
        return cls(**values | {k: v for k, v in options.items() if v is not None})

    def normalize(self, image: torch.Tensor) -> torch.Tensor:
        """Return the network's input for ... x 3 x H x W pixels in 0..255."""
        mean, std = (image.new_tensor(v, dtype=torch.float32) for v in (self.mean, self.std))
        return (image.float() / 255 - mean[:, None, None]) / std[:, None, None]

    def apply(self, image: torch.Tensor) -> torch.Tensor:
        """Resize and crop an image, 3 x H x W, uint8, as in evaluation."""
        if self.is_square:
            return self._resize(image, (self.crop, self.crop))
        image = self._resize(image, self._scaled_size(image))
        if not self.crop:
            return image
        if min(image.shape[1:]) < self.crop:  # of a network without a short edge
            image = self._resize(image, _limited(image.shape[1:], self.crop, 0))
        return T.center_crop(image, [self.crop, self.crop])

    def augment(self, image: torch.Tensor, generator: random.Random) -> torch.Tensor:
        """Return a random crop, or size, of an image, 3 x H x W, uint8, flipped at random."""
        if generator.random() < 0.5:
            image = image.flip(2)
        height, width = image.shape[1:]
        if not self.crop:
            return self._resize(image, self._scaled_size(image, generator.uniform(*SCALES)))
        top, left, height, width = _random_crop(height, width, generator)
        return self._resize(T.crop(image, top, left, height, width), (self.crop, self.crop))

    def _scaled_size(self, image: torch.Tensor, scale: float = 1.0) -> tuple[int, int]:
        """Return (H, W) to which an image is resized, relative to evaluation."""
        size = tuple(image.shape[1:])
        edge, steps = self.short_edge or min(size), (1, 1) if self.crop else self.multiples
        size = _limited(size, max(1, int(scale * edge)), int(scale * self.max_size))
        height, width = (max(1, round(n / k)) * k for n, k in zip(size, steps, strict=True))
        return height, width

    def _resize(self, image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        if size == tuple(image.shape[1:]):
            return image
        picture = T.resize(T.to_pil_image(image), list(size), InterpolationMode(self.interpolation))
        return T.pil_to_tensor(picture)


def _stated(network: nn.Module) -> dict[str, Any]:
    network = getattr(network, "module", network)  # of an nn.DataParallel
    cfg = getattr(network, "pretrained_cfg", None)  # timm's
    if cfg:
        side = cfg["input_size"][-1]
        return {
            **{"mean": cfg["mean"], "std": cfg["std"], "crop": side},
            "short_edge": int(side / cfg.get("crop_pct", 1)),
            "interpolation": cfg.get("interpolation", "bilinear"),
        }
    transform = getattr(network, "transform", None)
    if hasattr(transform, "image_mean"):  # of torchvision's detectors
        values = {"mean": transform.image_mean, "std": transform.image_std}
        if transform.fixed_size:
            return values | {"crop": transform.fixed_size[0], "is_square": True}
        return values | {"short_edge": transform.min_size[-1], "max_size": transform.max_size}
    side = getattr(network, "image_size", getattr(network, "config", None))
    side = getattr(side, "image_size", side)
    return {"short_edge": side, "crop": side} if isinstance(side, int) else {}


def _limited(size: Sequence[int], short_edge: int, max_size: int) -> tuple[int, int]:
    """Return (H, W) of an image whose shorter side is resized, with a limit of the longer one."""
    scale = short_edge / min(size)
    if max_size:
        scale = min(scale, max_size / max(size))
    height, width = (max(1, int(side * scale + 0.5)) for side in size)
    return height, width


def _random_crop(height: int, width: int, generator: random.Random) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of a crop of random area and aspect ratio."""
    for _ in range(10):
        area = height * width * generator.uniform(SMALLEST_CROP, 1)
        ratio = math.exp(generator.uniform(*map(math.log, ASPECT_RATIOS)))
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            break
    else:
        h = w = min(height, width)
    return generator.randint(0, height - h), generator.randint(0, width - w), h, w
