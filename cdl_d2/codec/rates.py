"""The rate of a bitstream: what the file takes, and what the entropy model estimates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from cdl_d2.codec.bitstream.stream import Bitstream
from cdl_d2.codec.codec import Codec
from cdl_d2.codec.latent import Latent
from cdl_d2.errors import CdlError


@dataclass(frozen=True)
class Rate:
    """Bits of one image.

    Attributes:
        file_bits: of the file, header included.
        string_bits: of the entropy-coded strings.
        estimated_bits: minus log2 of the likelihoods of all symbols.
        pixels: of the image.
        coded_pixels: of the padded image that was coded.
    """

    file_bits: int
    string_bits: int
    estimated_bits: float
    pixels: int
    coded_pixels: int

    @property
    def file_bpp(self) -> float:
        """Bits of the file a pixel of the image."""
        return self.file_bits / self.pixels

    @property
    def estimated_bpp(self) -> float:
        """Estimated bits a pixel of the image."""
        return self.estimated_bits / self.pixels

    @property
    def file_bits_per_coded_pixel(self) -> float:
        """Bits of the file a pixel of the padded image."""
        return self.file_bits / self.coded_pixels

    @property
    def estimated_bits_per_coded_pixel(self) -> float:
        """Estimated bits a pixel of the padded image."""
        return self.estimated_bits / self.coded_pixels


def rate_of(stream: Bitstream, latent: Latent) -> Rate:
    """The rate of a bitstream, of which `latent` was decompressed."""
    height, width = stream.image_size
    coded_height, coded_width = stream.coded_size
    return Rate(
        file_bits=8 * len(stream.to_bytes()),
        string_bits=8 * sum(len(string) for string in stream.strings),
        estimated_bits=latent.total_bits,
        pixels=height * width,
        coded_pixels=coded_height * coded_width,
    )


@dataclass(frozen=True)
class ChannelGroupRate:
    """Bits of some channels of y_hat, coded as a string of their own."""

    channels: tuple[int, ...]
    string_bits: int
    estimated_bits: float


def channel_group_rates(
    codec: Codec, stream: Bitstream, groups: Sequence[Sequence[int]]
) -> list[ChannelGroupRate]:
    """The rate of each group of channels of y_hat; raises as Codec.decompress.

    A string has 8 bytes besides its symbols, so that small groups cost more than estimated.
    """
    quantized, coder = codec.read_symbols(stream), codec.cpu_coder
    with torch.no_grad():
        likelihoods, _ = coder.likelihoods(quantized)
    bits = -torch.log2(likelihoods).sum((1, 2), dtype=torch.float64)
    return [
        ChannelGroupRate(
            channels=tuple(group),
            string_bits=8 * len(coder.encode_channels(quantized, group)),
            estimated_bits=float(bits[list(group)].sum()),
        )
        for group in groups
    ]


def equal_groups(channels: int, count: int) -> list[range]:
    """`count` runs of neighbouring channels, as equal as they can be.

    Raises:
        ValueError: if there are fewer channels than groups.
    """
    if not 1 <= count <= channels:
        raise CdlError(f"{channels} channels cannot be split into {count} groups")
    bounds = [channels * i // count for i in range(count + 1)]
    return [range(a, b) for a, b in pairwise(bounds)]
