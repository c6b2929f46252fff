"""Items of a model's batch: from an image to what a compressed-domain model looks at."""

from __future__ import annotations

from typing import Any

import torch

from cdl_d2.codec.bitstream.layers import read_selected
from cdl_d2.codec.bitstream.stream import SELECTED, Bitstream, BitstreamError
from cdl_d2.codec.codec import Codec
from cdl_d2.codec.latent import STRIDE, cell_size
from cdl_d2.errors import CdlError

DOMAINS = ("latent", "reconstruction", "image")
REPORTED = ("bits", "image_size", "channels")


def encode_item(
    item: dict[str, Any],
    codec: Codec,
    image_format: str,
    domain: str,
    device: torch.device | str,
    with_scales: bool = False,
) -> dict[str, Any]:
    """A batch item with its latent (or reconstruction) beside its image.

    Args:
        item: has `image`, 3 x H x W in 0..255, channels as `image_format` says, or `latent`.
        image_format: `BGR` or `RGB`.
        domain: `latent` or `reconstruction`.
        with_scales: add the deviations that the entropy model predicts, for domain `latent`.

    Returns:
        a copy of `item` with
        latent: M x ceil(H/16) x ceil(W/16), for domain `latent`;
        channel_bits and side_bits: of each channel, M, and of the hyperprior, with the latent;
        scales: as latent, if asked for;
        reconstruction: 3 x H x W in 0..255 whole numbers, channels as in `image`, for domain
        `reconstruction`;
        codec_identity: the CodecIdentity of either;
        image_size: (H, W) in pixels;
        bits: the estimated size of the coded image.
        An item that has what its domain needs is returned as it is.

    Raises:
        ValueError: if the image is smaller than a latent cell, if there is nothing to encode, or
            if the latent comes from another codec.
    """
    if domain in item:
        _check_identity(item, codec, domain)
        return item
    if "image" not in item:
        raise CdlError(f"a batch item has neither {domain!r} nor 'image': {sorted(item)}")
    image = item["image"]
    height, width = image.shape[-2:]
    if max(height, width) < STRIDE:
        raise CdlError(
            f"an image of {width}x{height} pixels is smaller than one latent cell "
            f"({STRIDE}x{STRIDE}): enlarge it, e.g. with INPUT.MIN_SIZE_TEST"
        )
    pixels = image.to(device).float() / 255
    encoded = codec.encode(_swap(pixels, image_format), with_scales)
    extra = {
        "codec_identity": codec.identity,
        "image_size": (height, width),
        "bits": encoded.total_bits,
    }
    if domain == "latent":
        extra["latent"] = encoded.cells
        extra["channel_bits"], extra["side_bits"] = encoded.channel_bits, encoded.side_bits
        if with_scales:
            extra["scales"] = encoded.crop(encoded.scales_hat)
    else:
        decoded = torch.round(codec.decode(encoded) * 255)
        extra["reconstruction"] = _swap(decoded, image_format)
    return {**item, **extra}


def _swap(image: torch.Tensor, image_format: str) -> torch.Tensor:
    """RGB <-> `image_format`."""
    return image.flip(0) if image_format == "BGR" else image


def item_of_stream(
    stream: Bitstream,
    codec: Codec,
    image_format: str,
    domain: str,
    device: torch.device | str = "cpu",
    with_scales: bool = False,
) -> dict[str, Any]:
    """An item of a bitstream, or of the first layer of one.

    Returns:
        what encode_item gives, without estimates: `bits` is the size of the stream, and there are
        no `channel_bits` and `side_bits`. For a first layer also
        channel_mask: M booleans, the channels that it has; the others are zero.

    Raises:
        BitstreamError: see Codec.decompress and decompress_selected; for a first layer and domain
            `reconstruction`.
    """
    layered, size = stream.coding == SELECTED, stream.image_size
    item = {
        "codec_identity": codec.identity,
        "image_size": size,
        "bits": 8 * len(stream.to_bytes()),
    }
    if layered and domain == "reconstruction":
        raise BitstreamError("a first layer has some channels only, which decode to no image")
    if layered:
        quantized, item["channel_mask"] = read_selected(codec, stream)
    else:
        quantized = codec.read_symbols(stream)
    if domain == "reconstruction":
        decoded = torch.round(codec.reconstruct(quantized.y_hat.to(device), size) * 255)
        return item | {"reconstruction": _swap(decoded, image_format)}
    rows, columns = cell_size(size)
    latent = quantized.y_hat[:, :rows, :columns]
    if layered:
        latent = latent * item["channel_mask"][:, None, None]
    item["latent"] = latent.to(device)
    if with_scales:
        item["scales"] = quantized.scales_hat[:, :rows, :columns].to(device)
    return item


def reported(item: dict[str, Any]) -> dict[str, Any]:
    """What a model's output says about the coded image, for the rate in evaluation."""
    return {key: item[key] for key in REPORTED if key in item}


def _check_identity(item: dict[str, Any], codec: Codec, domain: str) -> None:
    theirs = item.get("codec_identity")
    if theirs is not None and theirs != codec.identity:
        raise CdlError(f"the {domain} was made by {theirs}; this model reads {codec.identity}")


def item_image_size(item: dict[str, Any]) -> tuple[int, int]:
    """(H, W) in pixels of the image that an item shows to the network.

    Raises:
        ValueError: if the item does not say, or if its latent does not cover such an image.
    """
    if "image_size" not in item and "image" not in item:
        raise CdlError("a batch item with 'latent' and no 'image' needs 'image_size'")
    size = tuple(int(side) for side in item.get("image_size") or item["image"].shape[-2:])
    if "latent" in item and tuple(item["latent"].shape[-2:]) != cell_size(size):
        raise CdlError(
            f"a latent of {tuple(item['latent'].shape[-2:])} cells does not cover an image of "
            f"{size} pixels, which has {cell_size(size)}"
        )
    return size
