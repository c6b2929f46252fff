"""Latent of one image, its codec's identity, and the geometry of latent positions and pixels."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F

from cdl_d2.errors import CdlError, MisalignedImageError

STRIDE = 16  # pixels per side of a latent position
HYPERPRIOR_CELLS = 4  # positions of y per side of a position of the hyperprior z
CODING_MULTIPLE = STRIDE * HYPERPRIOR_CELLS
MAX_PIXELS = 2**26  # a latent of 320 channels takes 0.34 GB, its decoder some GB
MAX_PIXELS_VARIABLE = "CDL_MAX_PIXELS"

QUANTIZATIONS = ("dequantized", "rounded")


def current_fields(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a saved identity or choice of a codec under their current names.

    Up to version 0.1, `quantization` was called `meaning`, and `dequantized` `decoded`.
    """
    fields = dict(content)
    if "meaning" in fields:
        fields["quantization"] = current_quantization(fields.pop("meaning"))
    return fields


def current_quantization(value: str) -> str:
    """Return the current name of a quantization that a file of version 0.1 may name."""
    return "dequantized" if value == "decoded" else value


@dataclass(frozen=True)
class CodecIdentity:
    """Identity of the codec that produced a latent; latents are comparable if they are equal.

    Attributes:
        name: registered name, or a user's.
        quality: quality of the weights, or rate of a variable-rate codec.
        metric: `mse` or `ms-ssim`.
        quantization: `dequantized`, Q(y - mu) + mu as decoded from a bitstream, or `rounded`.
        weights: fingerprint of the weights; empty if unknown, as in files of CompressAI.
    """

    name: str
    quality: int
    metric: str
    quantization: str
    weights: str

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> CodecIdentity:
        """Return the identity that was saved as a dict, by this version or an earlier one."""
        return cls(**current_fields(content))

    def fits(self, identity: CodecIdentity) -> bool:
        """Return True if two identities are equal, or differ in unknown weights only."""
        return self == replace(identity, weights=identity.weights or self.weights)

    def differences(self, identity: CodecIdentity) -> str:
        """Return the names of the attributes in which two identities differ, in a sentence."""
        names = [name for name, value in vars(self).items() if value != getattr(identity, name)]
        return f"they differ in {' and '.join(names)}"

    def __str__(self) -> str:
        return (
            f"{self.name} quality {self.quality} ({self.metric}), {self.quantization} latents, "
            f"weights {self.weights or 'unknown'}"
        )


@dataclass(frozen=True)
class Latent:
    """Quantized latent of one image of H x W pixels, on the whole coded grid.

    The coded grid has h = H' / 16 by w = W' / 16 positions, where H' and W' are the image's sides
    rounded up to multiples of 64. The image is its upper left part if `padding` is (0, 0).

    Attributes:
        y_hat: M x h x w, float.
        image_size: (H, W) in pixels.
        scales_hat: M x h x w, predicted standard deviations in units of y_hat, or None.
        bits: h x w, estimated bits of y_hat per position; None, like the next two, if they were not
            estimated. Bits of a global channel are spread evenly over its positions.
        channel_bits: M, estimated bits of y_hat per channel.
        side_bits: estimated bits of the hyperprior; 0 without one.
        padding: rows above and columns left of the image on the grid, in pixels.
    """

    y_hat: torch.Tensor
    image_size: tuple[int, int]
    _: KW_ONLY
    scales_hat: torch.Tensor | None = None
    bits: torch.Tensor | None = None
    channel_bits: torch.Tensor | None = None
    side_bits: float | None = None
    padding: tuple[int, int] = (0, 0)

    def to(self, device: torch.device | str) -> Latent:
        """Return the same latent on another device."""
        tensors = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, torch.Tensor)}
        return replace(self, **tensors)

    def with_bits(self, bits: torch.Tensor, side_bits: float) -> Latent:
        """Return the same latent with the bits of each symbol, M x h x w, and of the hyperprior."""
        return replace(self, bits=bits.sum(0), channel_bits=bits.sum((1, 2)), side_bits=side_bits)

    @property
    def cells(self) -> torch.Tensor:
        """y_hat cropped to the image, M x ceil(H/16) x ceil(W/16)."""
        return self.crop(self.y_hat)

    @property
    def cells_and_margin(self) -> torch.Tensor:
        """y_hat of the image and of the margin, the coded positions below and right of it."""
        return crop_to_image(self.y_hat, self.image_size, self.padding, with_margin=True)

    def crop(self, grid: torch.Tensor) -> torch.Tensor:
        """Crop a tensor on the coded grid, ... x h x w, to the positions of the image."""
        return crop_to_image(grid, self.image_size, self.padding)

    @cached_property
    def total_bits(self) -> float:
        """Estimated bits of the whole image, hyperprior included.

        Raises:
            CdlError: if the bits were not estimated.
        """
        if self.bits is None:
            raise CdlError("the latent has no estimated bits: encode it with_bits")
        return float(self.bits.sum(dtype=torch.float64)) + self.side_bits

    @property
    def bits_per_pixel(self) -> float:
        """Estimated bits per pixel of the image, without padding."""
        return self.total_bits / (self.image_size[0] * self.image_size[1])


def latent_grid(image_size: tuple[int, int]) -> tuple[int, int]:
    """Return the rows and columns of latent positions that cover an image of (H, W) pixels."""
    return -(-image_size[0] // STRIDE), -(-image_size[1] // STRIDE)


def is_aligned(padding: tuple[int, int]) -> bool:
    """Return whether an image with (top, left) pixels of padding begins on a latent position."""
    return not any(side % STRIDE for side in padding)


def crop_to_image(
    grid: torch.Tensor,
    image_size: tuple[int, int],
    padding: tuple[int, int] = (0, 0),
    with_margin: bool = False,
) -> torch.Tensor:
    """Crop a tensor on the coded grid, ... x h x w, to the latent positions of an image.

    Args:
        grid: the tensor.
        image_size: (H, W) in pixels.
        padding: (top, left), pixels above and to the left of the image.
        with_margin: keep the positions below and right of the image, too.

    Raises:
        MisalignedImageError: if the padding is not a multiple of 16.
    """
    if not is_aligned(padding):
        raise MisalignedImageError(
            f"the image begins {padding[0]} pixels below and {padding[1]} pixels right of the "
            f"corner of its latent, expected multiples of {STRIDE}: only its pixels can be decoded"
        )
    (top, left), (rows, columns) = (side // STRIDE for side in padding), latent_grid(image_size)
    grid = grid[..., top:, left:]
    return grid if with_margin else grid[..., :rows, :columns]


def coded_cells(image_size: tuple[int, int]) -> tuple[int, int]:
    """Return the rows and columns of the coded grid of an image of (H, W), multiples of 4."""
    height, width = (-(-side // CODING_MULTIPLE) * CODING_MULTIPLE for side in image_size)
    return height // STRIDE, width // STRIDE


def check_covers(
    y_hat: torch.Tensor, image_size: tuple[int, int], with_margin: bool = False
) -> None:
    """Raise CdlError unless y_hat, ... x h x w, has the positions of an image of (H, W) pixels.

    It may have coded positions below and right of them, too, with `with_margin`.
    """
    sides, least = y_hat.shape[-2:], latent_grid(image_size)
    most = coded_cells(image_size) if with_margin else least
    if not all(0 < low <= n <= high for n, low, high in zip(sides, least, most, strict=True)):
        raise CdlError(
            f"a latent of {tuple(sides)} positions does not cover an image of {image_size} pixels, "
            f"which needs {least}" + (f", or {most} with its margin" if with_margin else "")
        )


def coded_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """Return (H', W') in pixels of an image of (H, W), padded to multiples of 64."""
    rows, columns = coded_cells(image_size)
    return rows * STRIDE, columns * STRIDE


def max_pixels() -> int:
    """Return the limit of the pixels of a coded image, for image files and bitstreams.

    The limit is 2^26, or the value of the environment variable CDL_MAX_PIXELS.

    Raises:
        CdlError: if the variable is not a number above 0.
    """
    text = os.environ.get(MAX_PIXELS_VARIABLE, "")
    if text and not (text.isascii() and text.isdigit() and int(text)):
        raise CdlError(f"{MAX_PIXELS_VARIABLE} {text!r} is not a number of pixels above 0")
    return int(text) if text else MAX_PIXELS


def check_pixels(image_size: tuple[int, int]) -> None:
    """Raise CdlError if an image of (H, W) is empty or its coded size exceeds max_pixels."""
    limit = max_pixels()
    height, width = coded_size(image_size)
    if min(image_size) < 1 or height * width > limit:
        raise CdlError(
            f"an image of {image_size} pixels, coded as {(height, width)}, is not between 1 and "
            f"{limit} pixels: set {MAX_PIXELS_VARIABLE} if there is memory for more"
        )


def pad_for_coding(image: torch.Tensor) -> torch.Tensor:
    """Pad images, ... x 3 x H x W, to multiples of 64, by repeating the last row and column."""
    height, width = image.shape[-2:]
    right, bottom = -width % CODING_MULTIPLE, -height % CODING_MULTIPLE
    return F.pad(image, (0, right, 0, bottom), mode="replicate")


def stack_for_coding(images: Sequence[torch.Tensor]) -> torch.Tensor:
    """Check, pad and stack images, each 3 x H x W, float, RGB in [0, 1], to N x 3 x H' x W'.

    Raises:
        CdlError: for another shape, dtype or value, or images of several coded sizes.
    """
    for image in images:
        _check_image(image)
    if len(images) > 1 and len({coded_cells(image.shape[1:]) for image in images}) > 1:
        sizes = sorted({tuple(image.shape[1:]) for image in images})
        raise CdlError(f"a batch has images of several coded sizes: {sizes}")
    return torch.stack([pad_for_coding(image.float()) for image in images])


def _check_image(image: torch.Tensor) -> None:
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise CdlError(f"an image of shape {tuple(image.shape)} is not 3 x H x W")
    if not image.is_floating_point():
        raise CdlError(f"an image of {image.dtype} is not float RGB in [0, 1]: divide by 255")
    low, high = image.aminmax()
    if not (low >= 0 and high <= 1):  # also true for NaN
        advice = "divide by 255" if low >= 0 else "give pixels before they are normalized"
        raise CdlError(
            f"image values from {float(low):g} to {float(high):g} are not in [0, 1]: {advice}"
        )
