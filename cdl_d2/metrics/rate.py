"""Rate of coded images, and what is averaged over them."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

AVERAGED = ("psnr", "ms_ssim", "perceptual", "channels")


class RateTotals:
    """Totals over coded images.

    Attributes:
        bits, pixels, images: sums; pixels are those of the images as they were coded.
    """

    def __init__(self) -> None:
        self.bits, self.pixels, self.images = 0.0, 0.0, 0
        self._values: dict[str, list[float]] = {name: [] for name in AVERAGED}

    def add(self, bits: float, pixels: float, values: Mapping[str, float | None] = {}) -> None:
        """Add an image.

        Args:
            bits: of the encoded image.
            pixels: of the image as it was encoded.
            values: of AVERAGED, those that were measured; None and other keys are left out.
        """
        self.bits += bits
        self.pixels += pixels
        self.images += 1
        for name, numbers in self._values.items():
            if values.get(name) is not None:
                numbers.append(values[name])

    def merge(self, totals: RateTotals) -> None:
        """Add the images of other totals."""
        self.bits += totals.bits
        self.pixels += totals.pixels
        self.images += totals.images
        for name, numbers in totals._values.items():
            self._values[name] += numbers

    def results(self) -> dict[str, float]:
        """Return the rate; {} without images.

        `bpp` is all bits over all pixels, `kB` the average size of an image in units of 1000 bytes.
        `psnr` in dB, `ms_ssim`, `perceptual` (smaller is better) and the number of selected
        `channels` are averages over the images that have them.
        """
        if not self.images:
            return {}
        averages = {name: fmean(values) for name, values in self._values.items() if values}
        return {"bpp": self.bits / self.pixels, "kB": self.bits / 8000 / self.images} | averages
