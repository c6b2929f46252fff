"""What images cost in a codec's files, and how they look afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from tqdm import tqdm

from cdl_d2.codec.bitstream.stream import Bitstream
from cdl_d2.codec.codec import Codec
from cdl_d2.codec.io.image_files import find_images, read_image
from cdl_d2.errors import CdlError, within_memory

MS_SSIM_SMALLEST = 161  # pixels a side that five scales of an 11 x 11 window need


@dataclass(frozen=True)
class RatePoint:
    """Rate and distortion of an image, or their means over images, as curves are usually drawn.

    Bits are those of the file, header included, or estimated, minus log2 of the likelihoods of all
    symbols. They are given a pixel of the image (bpp), or one of the padded image that is coded.

    Attributes:
        psnr: dB.
        ms_ssim: None below 161 pixels a side.
    """

    file_bpp: float
    estimated_bpp: float
    file_bits_per_coded_pixel: float
    estimated_bits_per_coded_pixel: float
    psnr: float
    ms_ssim: float | None


AVERAGE = "average"  # in the place of an image's name
COLUMNS = ("bpp", "estimated", "bpp, coded", "estimated, coded", "PSNR (dB)", "MS-SSIM")


def rate_point(codec: Codec, path: Path) -> tuple[Bitstream, RatePoint]:
    """The bitstream of an image file, and its rate and distortion after rounding to 8 bits.

    Raises:
        FileNotFoundError, CdlError: if the image cannot be read.
    """
    device = next(codec.parameters()).device
    original = read_image(path).to(device)
    stream = codec.compress(original.float() / 255)
    latent = codec.decompress(stream)
    decoded = torch.round(codec.decode(latent.to(device)) * 255)
    bits, estimated = 8 * len(stream.to_bytes()), latent.total_bits
    pixels, coded_pixels = (h * w for h, w in (stream.image_size, stream.coded_size))
    return stream, RatePoint(
        bits / pixels,
        estimated / pixels,
        bits / coded_pixels,
        estimated / coded_pixels,
        *distortion(original, decoded),
    )


def average(points: Sequence[RatePoint]) -> RatePoint:
    """The mean of each figure over images, that of MS-SSIM over those that have one."""
    means = {}
    for name in RatePoint.__dataclass_fields__:
        values = [value for p in points if (value := getattr(p, name)) is not None]
        means[name] = fmean(values) if values else None
    return RatePoint(**means)


def evaluate_codec(
    codec: Codec,
    folder: Path,
    per_image: bool = False,
    channel_groups: int | None = None,
    report: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """What a codec does to the images under a folder, as rows of a table.

    Args:
        per_image: whether each image has a row, before that of their average.
        channel_groups: instead, a row for each image and group of channels of y_hat, with the bits
            of a string of their own.
        report: is told of an image that cannot be read or coded, which is then left out.

    Raises:
        CdlError, OSError: if there is no image; if one cannot be read, without `report`.
    """
    codec_columns = {"codec": codec.name, "quality": codec.identity.quality}
    names, points, groups = [], [], []
    for path in tqdm(find_images(folder), leave=False, unit="image"):
        try:
            with within_memory():
                stream, point = rate_point(codec, path)
        except (CdlError, OSError) as error:
            if report is None:
                raise
            report(str(error) if str(path) in str(error) else f"{path}: {error}")
            continue
        names.append(path.name)
        points.append(point)
        if channel_groups:
            split = equal_groups(codec.latent_channels, channel_groups)
            for group, bits in zip(split, bits_of_groups(codec, stream, split), strict=True):
                span = {"image": path.name, "channels": f"{group[0]} to {group[-1]}"}
                groups.append(
                    {**codec_columns, **span, "bits (string)": bits[0], "estimated": bits[1]}
                )
    if not points:
        raise CdlError(f"no image under {folder} could be read")
    if channel_groups:
        return groups
    mean = [(AVERAGE, average(points))]
    rows = [*zip(names, points, strict=True), *mean] if per_image else mean
    return [
        codec_columns | {"image": name} | dict(zip(COLUMNS, astuple(point), strict=True))
        for name, point in rows
    ]


def bits_of_groups(
    codec: Codec, stream: Bitstream, groups: Sequence[Sequence[int]]
) -> list[tuple[int, float]]:
    """Bits of each group of channels of y_hat: of a string of its own, and estimated.

    A string has 8 bytes besides its symbols, so that small groups cost more than estimated.

    Raises:
        BitstreamError: as Codec.decompress.
    """
    quantized, coder = codec.read_symbols(stream), codec.cpu_coder
    with torch.no_grad():
        bits = coder.bits(quantized)[0].sum((1, 2), dtype=torch.float64)
    return [
        (
            8 * sum(map(len, coder.encode_channels(quantized, group))),
            float(bits[list(group)].sum()),
        )
        for group in groups
    ]


def equal_groups(channels: int, count: int) -> list[range]:
    """`count` runs of neighbouring channels, as equal as they can be.

    Raises:
        CdlError: if there are fewer channels than groups.
    """
    if not 1 <= count <= channels:
        raise CdlError(f"{channels} channels cannot be split into {count} groups")
    bounds = [channels * i // count for i in range(count + 1)]
    return [range(a, b) for a, b in pairwise(bounds)]


def distortion(original: torch.Tensor, decoded: torch.Tensor) -> tuple[float, float | None]:
    """PSNR in dB and MS-SSIM of 3 x H x W images in 0..255."""
    from pytorch_msssim import ms_ssim

    original, decoded = original.float(), decoded.float()
    mse = (decoded - original).square().mean()
    similarity = None
    if min(original.shape[1:]) >= MS_SSIM_SMALLEST:
        similarity = float(ms_ssim(decoded[None], original[None], data_range=255))
    return float(10 * torch.log10(255**2 / mse)), similarity
