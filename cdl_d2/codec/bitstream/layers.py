"""Bitstreams in two layers: selected channels (base), and the others (enhancement).

The base layer holds the selected channels of y, and the hyperprior if they need it. Together with
the enhancement layer it gives the whole latent bit for bit, and with it the image (the residual of
section 2.1 of *Semantic Segmentation in Learned Compressed Domain*). The strings of a layer are the
mask of its channels, one bit per channel; the coder's strings for these channels; and the
hyperprior's, in the first layer that needs it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from cdl_d2.codec.bitstream.stream import BASE, ENHANCEMENT, Bitstream, BitstreamError
from cdl_d2.codec.entropy.exact_arithmetic import exact_arithmetic
from cdl_d2.codec.entropy.latent_coder import Quantized
from cdl_d2.codec.latent import Latent, coded_cells, crop_to_image
from cdl_d2.errors import CdlError

if TYPE_CHECKING:
    from cdl_d2.codec.codec import Codec


@dataclass(frozen=True)
class Layers:
    """Bitstreams of an image.

    Attributes:
        base: layer that can be decoded alone, or a bitstream with all channels.
        enhancement: the other channels; None if they are not coded.
    """

    base: Bitstream
    enhancement: Bitstream | None = None

    def resized_from(self, original_size: tuple[int, int]) -> Layers:
        """Return the same layers, of an image that was resized from (H, W) pixels."""
        layers = (self.base, self.enhancement)
        return Layers(*(s and replace(s, original_size=original_size) for s in layers))


def compress_layers(
    codec: Codec,
    image: torch.Tensor,
    channels: Sequence[int] | Callable[[torch.Tensor], Sequence[int]],
    with_enhancement: bool = True,
) -> Layers:
    """Compress an image in two layers.

    Args:
        codec: codec with dequantized latents.
        image: 3 x H x W, float, RGB in [0, 1].
        channels: channels of the base layer, in any order; or a function that chooses them, given
            the latent of the image, M x ceil(H/16) x ceil(W/16), on the CPU.
        with_enhancement: whether to code the enhancement layer.

    Raises:
        CdlError: as Codec.compress; for channels that the codec does not have; for a codec whose
            context model needs all channels to decode any.
    """
    check_layered(codec)
    quantized, size = codec.quantize(image), tuple(image.shape[1:])
    if callable(channels):
        channels = channels(crop_to_image(quantized.y_hat, size))
    mask, coder = channel_mask(codec.latent_channels, channels), codec.cpu_coder
    side_in_base = coder.needs_hyperprior(mask)

    def layer(mask: torch.Tensor, with_side: bool, coding: str, checksum: int) -> Bitstream:
        strings = [_pack(mask), *coder.encode_channels(quantized, mask.nonzero()[:, 0])]
        if with_side:
            strings.append(coder.encode_hyperprior(quantized))
        return Bitstream(codec.identity, size, tuple(strings), coding=coding, checksum=checksum)

    base = layer(mask, side_in_base, BASE, _checksum(quantized, mask, side_in_base))
    if not with_enhancement:
        return Layers(base)
    return Layers(base, layer(~mask, not side_in_base, ENHANCEMENT, quantized.checksum))


def decompress_base(codec: Codec, stream: Bitstream) -> tuple[Latent, torch.Tensor]:
    """Decode a base layer, on the CPU.

    Returns:
        the latent, zero in the other channels, with the bits of this layer; and the mask of its
        channels, M booleans.

    Raises:
        BitstreamError: if it is not a base layer, is another codec's, or corrupted.
    """
    quantized, mask = read_base(codec, stream)
    return _to_latent(codec, quantized, mask, stream), mask


def read_base(codec: Codec, stream: Bitstream) -> tuple[Quantized, torch.Tensor]:
    """Decode the symbols of a base layer, without estimating bits.

    Returns:
        the symbols, those of the other channels being what the entropy model expects; and the mask
        of its channels, M booleans.

    Raises:
        BitstreamError: as `decompress_base`.
    """
    return _read(codec, stream, None)


def decompress_layers(codec: Codec, base: Bitstream, enhancement: Bitstream | None) -> Latent:
    """Decode the whole latent of an image from its layers, on the CPU.

    Raises:
        BitstreamError: as `decompress_base`; if the enhancement layer belongs to another image or
            selection, or is missing and the base layer does not have all channels.
    """
    if enhancement is None:
        mask = _read_mask(codec, base, BASE)
        if mask.all():
            return decompress_base(codec, base)[0]
        raise BitstreamError(
            f"the base layer has {int(mask.sum())} of {len(mask)} channels: the image needs the "
            "enhancement layer too"
        )
    quantized = read_layers(codec, base, enhancement)
    return _to_latent(codec, quantized, torch.ones(codec.latent_channels, dtype=torch.bool), base)


def read_layers(codec: Codec, base: Bitstream, enhancement: Bitstream | None = None) -> Quantized:
    """Decode the symbols of a bitstream with all channels, of a base layer or of both layers.

    Raises:
        BitstreamError: as `decompress_layers`, but a base layer suffices; as `Codec.decompress`.
    """
    if base.coding != BASE:
        return codec.read_symbols(base)
    quantized, _ = _read(codec, base, enhancement)
    if enhancement is not None and quantized.checksum != enhancement.checksum:
        raise BitstreamError("base and enhancement layer belong to different images")
    return quantized


def channel_mask(count: int, channels: Sequence[int]) -> torch.Tensor:
    """Return `count` booleans that are true for the channels.

    Raises:
        CdlError: for a channel outside of 0..count - 1, or given twice.
    """
    mask = torch.zeros(count, dtype=torch.bool)
    for channel in map(int, channels):
        if not 0 <= channel < count or mask[channel]:
            raise CdlError(
                f"channel {channel} is given twice or is not one of 0..{count - 1}: the selection "
                "does not fit this codec"
            )
        mask[channel] = True
    return mask


def check_layered(codec: Codec) -> None:
    """Raise CdlError unless channels of the codec can be coded without the others."""
    if not codec.cpu_coder.codes_channels_alone:
        raise CdlError(
            f"{codec.name} cannot be coded in layers: it needs a hyperprior and no context model "
            "(bmshj2018-hyperprior, mbt2018-mean, zhang2022)"
        )


def _read(
    codec: Codec, base: Bitstream, enhancement: Bitstream | None
) -> tuple[Quantized, torch.Tensor]:
    check_layered(codec)
    coder, mask = codec.cpu_coder, _read_mask(codec, base, BASE)
    side_in_base = coder.needs_hyperprior(mask)
    strings, side = _split_strings(codec, base, side_in_base)
    parts = [(mask, strings)]
    if enhancement is not None:
        other_mask = _read_mask(codec, enhancement, ENHANCEMENT)
        sizes = [(layer.image_size, layer.padding) for layer in (base, enhancement)]
        if not torch.equal(other_mask, ~mask) or sizes[0] != sizes[1]:
            raise BitstreamError(
                "the enhancement layer has other channels or another image size than the base layer"
            )
        strings, other_side = _split_strings(codec, enhancement, not side_in_base)
        parts.append((other_mask, strings))
        side = side if side_in_base else other_side
    with exact_arithmetic(torch.device("cpu")):
        quantized = coder.decode_channels(parts, side, coded_cells(base.image_size))
    if base.checksum != _checksum(quantized, mask, side_in_base):
        raise BitstreamError("the stream decodes to other symbols than were written")
    if not quantized.is_finite:
        raise BitstreamError("the stream decodes to a latent that is not finite")
    return quantized, mask


def _read_mask(codec: Codec, stream: Bitstream, coding: str) -> torch.Tensor:
    """Return the channels of a layer as M booleans, after checking codec and coding."""
    if stream.codec != codec.identity:
        raise BitstreamError(f"the stream was made by {stream.codec}; this is {codec.identity}")
    if stream.coding != coding or not stream.strings:
        raise BitstreamError(f"expected a stream of coding {coding!r}, not {stream.coding!r}")
    packed = np.frombuffer(stream.strings[0], dtype=np.uint8)
    if len(packed) != -(-codec.latent_channels // 8):
        raise BitstreamError(
            f"a mask of {len(packed)} bytes does not fit {codec.latent_channels} channels"
        )
    bits = np.unpackbits(packed, count=codec.latent_channels).astype(bool)
    return torch.from_numpy(bits)


def _split_strings(
    codec: Codec, stream: Bitstream, with_side: bool
) -> tuple[tuple[bytes, ...], bytes | None]:
    """Split the strings of a layer into those of channels and the hyperprior's, if it has one."""
    count, expected = len(stream.strings), 1 + codec.cpu_coder.channel_string_count + with_side
    if count != expected:
        raise BitstreamError(f"a layer of these channels has {expected} strings, not {count}")
    return (stream.strings[1:-1], stream.strings[-1]) if with_side else (stream.strings[1:], None)


def _pack(mask: torch.Tensor) -> bytes:
    return np.packbits(mask.numpy()).tobytes()


def _checksum(quantized: Quantized, mask: torch.Tensor, with_side: bool) -> int:
    """Return the CRC-32 of the symbols in a base layer."""
    value = zlib.crc32(quantized.y_symbols[mask].contiguous().numpy().tobytes())
    if not with_side:
        return value
    return zlib.crc32(quantized.z_symbols.contiguous().numpy().tobytes(), value)


def _to_latent(codec: Codec, quantized: Quantized, mask: torch.Tensor, stream: Bitstream) -> Latent:
    with exact_arithmetic(torch.device("cpu")):
        bits, side_bits = codec.cpu_coder.bits(quantized)
    y_hat = quantized.y_hat * mask[:, None, None]
    latent = Latent(y_hat, stream.image_size, padding=stream.padding)
    return latent.with_bits(bits * mask[:, None, None], side_bits)
