"""Symbols of a quantized latent -> bitstream, and back with checks."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch

from cdl_d2.codec.bitstream.stream import BASE, ENHANCEMENT, Bitstream
from cdl_d2.codec.entropy.autoregressive_coder import COMPRESSAI
from cdl_d2.codec.entropy.exact_arithmetic import exact_arithmetic
from cdl_d2.codec.entropy.latent_coder import LatentCoder, Quantized
from cdl_d2.codec.latent import CodecIdentity, coded_cells
from cdl_d2.errors import BitstreamError


def encode_symbols(
    quantized: Quantized, coder: LatentCoder, codec: CodecIdentity, image_size: tuple[int, int]
) -> Bitstream:
    """Encode the symbols of an image of (H, W) pixels."""
    scale_floor = coder.scale_floor(quantized)
    return Bitstream(
        codec=codec,
        image_size=image_size,
        strings=tuple(coder.encode(quantized, scale_floor)),
        checksum=quantized.checksum,
        scale_floor=scale_floor,
    )


def identify(stream: Bitstream, codec: CodecIdentity) -> Bitstream:
    """Return a bitstream with a codec's whole identity.

    Files of CompressAI do not name the weights: this codec's are assumed, with a warning.

    Raises:
        BitstreamError: if another codec wrote the stream.
    """
    if stream.codec == codec:
        return stream
    if not codec.fits(stream.codec):
        raise BitstreamError(
            f"the stream was made by {stream.codec}; this is {codec}: "
            f"{codec.differences(stream.codec)}"
        )
    if not stream.codec.weights:
        warnings.warn(
            f"files of CompressAI do not name the weights that wrote them: assuming {codec}",
            stacklevel=2,
        )
    return replace(stream, codec=codec)


def decode_symbols(stream: Bitstream, coder: LatentCoder) -> Quantized:
    """Decode a bitstream, on the CPU.

    Raises:
        BitstreamError: if the coder does not write such streams, or if the stream does not decode
            to the symbols that were written.
    """
    _check_stream(stream, coder)
    grid = coded_cells(stream.image_size)
    with exact_arithmetic(torch.device("cpu")):
        quantized = coder.decode(stream.strings, grid, stream.coding, stream.scale_floor)
    has_checksum = stream.coding != COMPRESSAI or stream.checksum is not None
    if has_checksum and stream.checksum != quantized.checksum:
        raise BitstreamError(
            "the stream decodes to other symbols than were written: the machine that wrote it, "
            "or its version of PyTorch, rounds the entropy model differently"
        )
    if not quantized.is_finite:
        raise BitstreamError("the stream decodes to a latent that is not finite")
    return quantized


def _check_stream(stream: Bitstream, coder: LatentCoder) -> None:
    name, count = stream.codec.name, len(stream.strings)
    if stream.coding in (BASE, ENHANCEMENT):
        raise BitstreamError(
            "the stream is one of two layers and does not have all channels: read both with "
            "decompress_layers, or the base layer with decompress_base"
        )
    if stream.coding == COMPRESSAI and not coder.reads_compressai:
        raise BitstreamError(
            f"streams that CompressAI wrote with {name} are not supported: their precision or "
            "order of symbols differs"
        )
    if count != coder.string_count:
        raise BitstreamError(f"{name} writes {coder.string_count} strings, the stream has {count}")
    if stream.scale_floor and not coder.codes_channels_alone:
        raise BitstreamError(f"{name} has no scale floor, but the stream has one")
