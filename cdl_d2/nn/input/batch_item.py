"""What stands in an item of a batch, a dict, beside the image that a network is shown."""

from __future__ import annotations

import zlib
from typing import Any

import torch

from cdl_d2.codec.latent import STRIDE, latent_grid
from cdl_d2.errors import CdlError

REPORTED = ("bits", "image_size", "channels")
CODED = (  # what an item says of its coded image, which another image makes untrue
    *("latent", "scales", "reconstruction", "codec_identity", "image_size", "encoded_image"),
    *("bits", "channel_bits", "side_bits", "channel_mask"),
)


def check_image(image: object) -> None:
    """Raise CdlError unless an item's image, or a batch of them, can be pixels in 0..255.

    Floats up to 1 that are not whole numbers are taken for pixels in 0..1, as torchvision has them.
    """
    if not isinstance(image, torch.Tensor):
        raise CdlError(
            f"an item's image is a {type(image).__name__}, not a tensor 3 x H x W with values from "
            "0 to 255: of an array H x W x 3, take torch.as_tensor(array.transpose(2, 0, 1))"
        )
    if not image.is_floating_point() or torch.jit.is_tracing() or not image.numel():
        return
    low, high = image.aminmax()
    if low >= 0 and high <= 1 and bool((image != image.round()).any()):
        raise CdlError(
            f"an item's image has values from {float(low):g} to {float(high):g}, expected 0 to "
            "255: multiply by 255"
        )


def check_encodable(image: torch.Tensor) -> None:
    """Raise CdlError unless a codec can encode an item's image: pixels in 0..255, of a latent
    position at least."""
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
            f"an item's image has values from {float(low):g} to {float(high):g}, expected 0 to "
            "255: give pixels before they are normalized"
        )


def has_another_image(item: dict[str, Any]) -> bool:
    """Whether `image` is not what was encoded, as far as the item says what that was."""
    if "image" not in item:
        return False
    image, coded = item["image"], item.get("image_size")
    if coded is None and "reconstruction" in item:
        coded = item["reconstruction"].shape[-2:]
    if coded is not None and tuple(coded) != tuple(image.shape[-2:]):
        return True
    return "encoded_image" in item and item["encoded_image"] != image_checksum(image)


def without_coded(item: dict[str, Any]) -> dict[str, Any]:
    """An item that says nothing of a coded image."""
    return {key: value for key, value in item.items() if key not in CODED}


def image_checksum(image: torch.Tensor | None) -> int | None:
    """CRC-32 of an item's image, by which one that was flipped later is told from the one that was
    encoded; of None, an item that had no image, None."""
    if image is None:
        return None
    return zlib.crc32(image.detach().cpu().contiguous().numpy())


def image_size_of(item: dict[str, Any]) -> tuple[int, int]:
    """Return (H, W) of an item's image in pixels.

    Raises:
        CdlError: if the item has no size, or if its latent has another size.
    """
    if "image_size" not in item and "image" not in item:
        raise CdlError("a batch item with 'latent' and no 'image' needs 'image_size'")
    sides = item.get("image_size")
    if sides is None:
        sides = item["image"].shape[-2:]
    size = tuple(int(side) for side in sides)
    if "latent" in item and tuple(item["latent"].shape[-2:]) != latent_grid(size):
        raise CdlError(
            f"a latent of {tuple(item['latent'].shape[-2:])} cells does not cover an image of "
            f"{size} pixels, which has {latent_grid(size)}"
        )
    return size


def output_size(item: dict[str, Any]) -> tuple[int, int]:
    """Return (H, W) in pixels of an item's results: its `height` and `width`, or its image's size.

    Raises:
        CdlError: as `image_size_of`.
    """
    height, width = image_size_of(item)
    return item.get("height", height), item.get("width", width)


def reported(item: dict[str, Any]) -> dict[str, Any]:
    """What a model's output says about the coded image, for the rate in evaluation; nothing while
    it is traced, when outputs are tensors."""
    if torch.jit.is_tracing():
        return {}
    return {key: item[key] for key in REPORTED if key in item}
