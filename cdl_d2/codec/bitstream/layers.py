"""Bitstreams in two layers: the channels that a task needs, and the rest.

The first layer holds the selected channels of y and the hyperprior, if they need it; dropped
channels are not coded in it. The second holds the dropped ones, so that the whole latent, and with
it the image, can be had later, bit for bit (the residual of section 2.1 of *Semantic Segmentation
in Learned Compressed Domain*). Both are Bitstream files. Their strings are the mask of their
channels, a bit each; those of the coder for these channels; and that of the hyperprior, in the
first layer that needs it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from cdl_d2.codec.bitstream.stream import REST, SELECTED, Bitstream, BitstreamError
from cdl_d2.codec.entropy.exact_arithmetic import exact_arithmetic
from cdl_d2.codec.entropy.latent_coder import Quantized
from cdl_d2.codec.latent import Latent, coded_cells, crop_to_image
from cdl_d2.errors import CdlError

if TYPE_CHECKING:
    from cdl_d2.codec.codec import Codec


@dataclass(frozen=True)
class Layers:
    """The bitstreams of an image; `selected` can be used alone. `rest` is None if not coded."""

    selected: Bitstream
    rest: Bitstream | None

    def resized_from(self, original_size: tuple[int, int]) -> Layers:
        """Return the same layers, which say that their image was resized from (H, W) pixels."""
        layers = (self.selected, self.rest)
        return Layers(*(s and replace(s, original_size=original_size) for s in layers))


def compress_layers(
    codec: Codec,
    image: torch.Tensor,
    channels: Sequence[int] | Callable[[torch.Tensor], Sequence[int]],
    with_rest: bool = True,
) -> Layers:
    """Code an image in two layers.

    Args:
        image: 3 x H x W, float, RGB in [0, 1].
        channels: of y_hat, for the first layer, in any order; or what chooses them from the cells
            of y_hat that the image covers, M x ceil(H/16) x ceil(W/16), on the CPU.
        with_rest: whether to code the second layer.

    Raises:
        CdlError: as Codec.compress; for channels that the codec does not have; for a codec
            whose context model needs all channels to decode any.
    """
    check_layered(codec)
    quantized, size = codec.quantize(image), tuple(image.shape[1:])
    if callable(channels):
        channels = channels(crop_to_image(quantized.y_hat, size))
    mask, coder = channel_mask(codec.latent_channels, channels), codec.cpu_coder
    side_first = coder.needs_hyperprior(mask)

    def layer(channels: torch.Tensor, with_side: bool, coding: str, checksum: int) -> Bitstream:
        strings = [_pack(channels), *coder.encode_channels(quantized, channels.nonzero()[:, 0])]
        if with_side:
            strings.append(coder.encode_hyperprior(quantized))
        return Bitstream(codec.identity, size, tuple(strings), coding=coding, checksum=checksum)

    selected = layer(mask, side_first, SELECTED, _checksum(quantized, mask, side_first))
    if not with_rest:
        return Layers(selected, None)
    return Layers(selected, layer(~mask, not side_first, REST, quantized.checksum))


def decompress_selected(codec: Codec, stream: Bitstream) -> tuple[Latent, torch.Tensor]:
    """The selected channels of a latent, on the CPU.

    Returns:
        the latent, zero in dropped channels, its bits those of the selected ones and the
        hyperprior; and the mask of the selected channels, M booleans.

    Raises:
        BitstreamError: if it is no first layer, another codec's, or damaged.
    """
    quantized, mask = read_selected(codec, stream)
    return _latent(codec, quantized, mask, stream), mask


def read_selected(codec: Codec, stream: Bitstream) -> tuple[Quantized, torch.Tensor]:
    """What the entropy decoder makes of a first layer, and its mask; as decompress_selected, but
    nothing is estimated, and dropped channels hold what the entropy model expects of them."""
    return _read(codec, stream, None)


def decompress_layers(codec: Codec, selected: Bitstream, rest: Bitstream | None) -> Latent:
    """The whole latent of an image, on the CPU; `Codec.decode` makes the image of it.

    Raises:
        BitstreamError: as decompress_selected; if the second layer is missing where the first has
            not all channels, or is of another image or selection.
    """
    if rest is None:
        mask = _mask_of(codec, selected, SELECTED)
        if mask.all():
            return decompress_selected(codec, selected)[0]
        raise BitstreamError(
            f"the stream holds {int(mask.sum())} of {len(mask)} channels: give its second layer "
            "to get the image"
        )
    quantized, mask = _read(codec, selected, rest)
    if quantized.checksum != rest.checksum:
        raise BitstreamError("the second layer belongs to another image: take the one it came with")
    return _latent(codec, quantized, torch.ones_like(mask), selected)


def channel_mask(count: int, channels: Sequence[int]) -> torch.Tensor:
    """Booleans, `count` of them, true for the channels.

    Raises:
        CdlError: for a channel below 0, from `count` on, or given twice.
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
    codec: Codec, selected: Bitstream, rest: Bitstream | None
) -> tuple[Quantized, torch.Tensor]:
    check_layered(codec)
    coder, mask = codec.cpu_coder, _mask_of(codec, selected, SELECTED)
    side_first = coder.needs_hyperprior(mask)
    strings, side = _strings(codec, selected, side_first)
    parts = [(mask, strings)]
    if rest is not None:
        others = _mask_of(codec, rest, REST)
        places = [(layer.image_size, layer.padding) for layer in (selected, rest)]
        if not torch.equal(others, ~mask) or places[0] != places[1]:
            raise BitstreamError("the second layer has other channels or another image size")
        strings, side_of_rest = _strings(codec, rest, not side_first)
        parts, side = [*parts, (others, strings)], side if side_first else side_of_rest
    with exact_arithmetic(torch.device("cpu")):
        quantized = coder.decode_channels(parts, side, coded_cells(selected.image_size))
    if selected.checksum != _checksum(quantized, mask, side_first):
        raise BitstreamError("the stream decodes to other symbols than were written")
    if not quantized.is_finite:
        raise BitstreamError("the stream decodes to a latent that is not finite")
    return quantized, mask


def _mask_of(codec: Codec, stream: Bitstream, coding: str) -> torch.Tensor:
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


def _strings(
    codec: Codec, stream: Bitstream, with_side: bool
) -> tuple[tuple[bytes, ...], bytes | None]:
    """Those of the channels of a layer, and that of the hyperprior, if it has one."""
    count, expected = len(stream.strings), 1 + codec.cpu_coder.channel_string_count + with_side
    if count != expected:
        raise BitstreamError(f"a layer of these channels has {expected} strings, not {count}")
    return (stream.strings[1:-1], stream.strings[-1]) if with_side else (stream.strings[1:], None)


def _pack(mask: torch.Tensor) -> bytes:
    return np.packbits(mask.numpy()).tobytes()


def _checksum(quantized: Quantized, mask: torch.Tensor, with_side: bool) -> int:
    """CRC-32 of what the first layer holds."""
    value = zlib.crc32(quantized.y_symbols[mask].contiguous().numpy().tobytes())
    if not with_side:
        return value
    return zlib.crc32(quantized.z_symbols.contiguous().numpy().tobytes(), value)


def _latent(codec: Codec, quantized: Quantized, mask: torch.Tensor, stream: Bitstream) -> Latent:
    with exact_arithmetic(torch.device("cpu")):
        bits, side_bits = codec.cpu_coder.bits(quantized)
    y_hat = quantized.y_hat * mask[:, None, None]
    latent = Latent(y_hat, stream.image_size, padding=stream.padding)
    return latent.with_bits(bits * mask[:, None, None], side_bits)
