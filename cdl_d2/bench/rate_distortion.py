"""Rate and distortion of a codec on a folder of images, as a table and as curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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


def measure_image(codec: Codec, path: Path) -> dict[str, float | None]:
    """Compress and decompress an image file; return its rate and distortion, COLUMNS.

    Returns:
        bits per pixel of the image, of its file with the header and estimated, -log2 of the
        likelihoods of all symbols; both per pixel of the padded image; PSNR after rounding to 8
        bits; and MS-SSIM, None for images of fewer than 161 pixels per side.

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
    rates = (total / count for count in (pixels, coded_pixels) for total in (bits, estimated))
    return dict(zip(COLUMNS, (*rates, *psnr_and_ms_ssim(original, reconstruction)), strict=True))


def average(points: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Return the mean of each column over the images that have it."""
    values = {name: [p[name] for p in points if p[name] is not None] for name in COLUMNS}
    return {name: fmean(numbers) if numbers else None for name, numbers in values.items()}


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
    points: dict[str, dict[str, float | None]] = {}
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
        {"codec": codec.name, "quality": codec.identity.quality, "image": name} | point
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
