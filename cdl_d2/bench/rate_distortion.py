"""Rate and distortion of a codec on a folder of images, as a table and as curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from cdl_d2.codec import Codec
from cdl_d2.codec.io.image_files import find_images, read_image
from cdl_d2.errors import CdlError, imports_of_extra, within_memory
from cdl_d2.metrics.image_quality import psnr_and_ms_ssim

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AVERAGE = "average"  # in the column of image names
COLUMNS = ("bpp", "estimated", "bpp, coded", "estimated, coded", "PSNR (dB)", "MS-SSIM")


@dataclass(frozen=True)
class RatePoint:
    """Rate and distortion of an image, or their means over images.

    File bits include the header. Estimated bits are -log2 of the likelihoods of all symbols.

    Attributes:
        file_bpp, estimated_bpp: bits per pixel of the image.
        file_bits_per_coded_pixel, estimated_bits_per_coded_pixel: bits per pixel of the padded
            image.
        psnr: in dB, after rounding to 8 bits.
        ms_ssim: None for images of fewer than 161 pixels per side.
    """

    file_bpp: float
    estimated_bpp: float
    file_bits_per_coded_pixel: float
    estimated_bits_per_coded_pixel: float
    psnr: float
    ms_ssim: float | None


def measure_image(codec: Codec, path: Path) -> RatePoint:
    """Compress and decompress an image file; return its rate and distortion.

    Raises:
        FileNotFoundError, CdlError: if the image cannot be read.
    """
    device = next(codec.parameters()).device
    original = read_image(path).to(device)
    stream = codec.compress(original.float() / 255)
    latent = codec.decompress(stream)
    reconstruction = torch.round(codec.decode(latent.to(device)) * 255)
    bits, estimated = stream.bits, latent.total_bits
    pixels, coded_pixels = (h * w for h, w in (stream.image_size, stream.coded_size))
    return RatePoint(
        bits / pixels,
        estimated / pixels,
        bits / coded_pixels,
        estimated / coded_pixels,
        *psnr_and_ms_ssim(original, reconstruction),
    )


def average(points: Sequence[RatePoint]) -> RatePoint:
    """Return the mean of each value over the images that have it."""
    means = {}
    for name in RatePoint.__dataclass_fields__:
        values = [value for p in points if (value := getattr(p, name)) is not None]
        means[name] = fmean(values) if values else None
    return RatePoint(**means)


def evaluate_codec(
    codec: Codec,
    folder: Path,
    per_image: bool = False,
    report: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """Measure a codec on the images under a folder.

    Args:
        codec: codec at one quality.
        folder: searched recursively.
        per_image: whether to return a row per image before the row of averages.
        report: called with the error of an image that cannot be read or coded, which is skipped.

    Returns:
        rows with `codec`, `quality`, `image` and COLUMNS.

    Raises:
        CdlError, OSError: if there is no image; if an image fails and `report` is None.
    """
    points: dict[str, RatePoint] = {}
    for path in tqdm(find_images(folder), leave=False, unit="image"):
        try:
            with within_memory():
                points[str(path)] = measure_image(codec, path)
        except (CdlError, OSError) as error:
            if report is None:
                raise
            report(str(error) if str(path) in str(error) else f"{path}: {error}")
    if not points:
        raise CdlError(f"no image under {folder} could be read")
    rows = [(Path(name).name, point) for name, point in points.items()] if per_image else []
    return [
        {"codec": codec.name, "quality": codec.identity.quality, "image": name}
        | dict(zip(COLUMNS, astuple(point), strict=True))
        for name, point in [*rows, (AVERAGE, average([*points.values()]))]
    ]


def plot_rate_distortion(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Plot PSNR and MS-SSIM against the bits per pixel of files, one curve per codec.

    The layout is that of figure 7 of *Learning in Compressed Domain via Knowledge Transfer*.
    MS-SSIM is plotted in dB, -10 log10(1 - MS-SSIM).

    Args:
        rows: averages that `evaluate_codec` returns.
    """
    with imports_of_extra("report"):
        from matplotlib.figure import Figure
    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots(1, 2)
    for name in dict.fromkeys(row["codec"] for row in rows):
        curve = sorted((row for row in rows if row["codec"] == name), key=itemgetter("bpp"))
        axes[0].plot([r["bpp"] for r in curve], [r["PSNR (dB)"] for r in curve], "o-", label=name)
        curve = [r for r in curve if r["MS-SSIM"] is not None]
        decibels = [-10 * math.log10(max(1 - r["MS-SSIM"], 1e-12)) for r in curve]
        axes[1].plot([r["bpp"] for r in curve], decibels, "o-", label=name)
    for axis, label in zip(axes, ("PSNR (dB)", "MS-SSIM (dB)"), strict=True):
        axis.set(xlabel="bits per pixel", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].legend()
    return figure
