"""Entries of a sample, a dict, that describe its image and how it was encoded."""

from __future__ import annotations

import zlib
from typing import Any

import torch

from cdl_d2.codec.latent import STRIDE, check_covers
from cdl_d2.errors import CdlError

RATE_FIELDS = ("bits", "image_size", "channels")
ENCODING_FIELDS = (  # invalid once `image` changes
    *("latent", "scales", "reconstruction", "codec_identity", "image_size", "image_crc32"),
    *("bits", "channel_bits", "side_bits", "channel_mask"),
)


def check_image(image: object) -> None:
    """Raise CdlError unless a sample's image, or a batch of them, can be pixels in 0..255.

    Floats up to 1 that are not whole numbers are rejected as pixels in 0..1, torchvision's range.
    """
    if not isinstance(image, torch.Tensor):
        raise CdlError(
            f"a sample's image is a {type(image).__name__}, not a tensor 3 x H x W with values "
            "from 0 to 255: convert an array H x W x 3 by torch.as_tensor(array.transpose(2, 0, 1))"
        )
    if not image.is_floating_point() or torch.jit.is_tracing() or not image.numel():
        return
    low, high = image.aminmax()
    if low >= 0 and high <= 1 and bool((image != image.round()).any()):
        raise CdlError(
            f"a sample's image has values from {float(low):g} to {float(high):g}, expected 0 to "
            "255: multiply by 255"
        )


def check_encodable(image: torch.Tensor) -> None:
    """Raise CdlError unless a sample's image is in 0..255 and at least a latent position large."""
    check_image(image)
    height, width = image.shape[-2:]
    if max(height, width) < STRIDE:
        raise CdlError(
            f"an image of {width}x{height} pixels is smaller than one latent position "
            f"({STRIDE}x{STRIDE}): enlarge it"
        )
    if image.dtype == torch.uint8 or torch.jit.is_tracing() or not image.numel():
        return
    low, high = image.aminmax()
    if not (low >= 0 and high <= 255):  # also true for NaN
        raise CdlError(
            f"a sample's image has values from {float(low):g} to {float(high):g}, expected 0 to "
            "255: give pixels before they are normalized"
        )


def is_image_changed(sample: dict[str, Any]) -> bool:
    """Return True if `image` differs from what was encoded, by size or checksum if recorded."""
    image, encoded_size = sample["image"], sample.get("image_size")
    if encoded_size is None and "reconstruction" in sample:
        encoded_size = sample["reconstruction"].shape[-2:]
    if encoded_size is not None and tuple(encoded_size) != tuple(image.shape[-2:]):
        return True
    return "image_crc32" in sample and sample["image_crc32"] != compute_crc32(image)


def drop_encoding(sample: dict[str, Any]) -> dict[str, Any]:
    """Return a sample without the entries that depend on the encoded image."""
    return {key: value for key, value in sample.items() if key not in ENCODING_FIELDS}


def compute_crc32(image: torch.Tensor | None) -> int | None:
    """Return the CRC-32 of a sample's image, to detect later flips; None for None."""
    if image is None:
        return None
    return zlib.crc32(image.detach().cpu().contiguous().numpy())


def get_image_size(sample: dict[str, Any], with_margin: bool = False) -> tuple[int, int]:
    """Return (H, W) of a sample's image in pixels, of whose latent a margin is allowed or not.

    Raises:
        CdlError: if the sample has no size, or if its latent has another size.
    """
    if "image_size" not in sample and "image" not in sample:
        raise CdlError("a sample with 'latent' and no 'image' needs 'image_size'")
    sides = sample.get("image_size")
    if sides is None:
        sides = sample["image"].shape[-2:]
    height, width = sides
    size = int(height), int(width)
    if "latent" in sample:
        check_covers(sample["latent"], size, with_margin)
    return size


def get_output_size(sample: dict[str, Any], image_size: tuple[int, int]) -> tuple[int, int]:
    """Return (H, W) in pixels of a sample's results: its `height` and `width`, or its image's size.

    `image_size` is the result of get_image_size.
    """
    height, width = image_size
    return sample.get("height", height), sample.get("width", width)


def rate_fields(sample: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of a sample that a model's output reports for the rate; {} in tracing."""
    if torch.jit.is_tracing():
        return {}
    return {key: sample[key] for key in RATE_FIELDS if key in sample}
