"""The rate of the coded images, in the same results as the accuracy."""

from __future__ import annotations

from collections import OrderedDict
from statistics import fmean

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

AVERAGED = ("psnr", "ms_ssim", "perceptual", "channels")


class RateEvaluator(DatasetEvaluator):
    """Estimated bits per pixel of the images that a model was shown.

    Results: `rate` with `bpp`, all bits over all pixels of the images as they were coded (after
    resizing), and `kB`, the average size of a coded image in units of 1000 bytes; and where the
    model says them, `psnr` (dB), `ms_ssim`, `perceptual` (a distance, smaller is better) and the
    number of selected `channels`, averages over images. Empty for a network on original images.
    """

    def reset(self) -> None:
        self._bits, self._pixels, self._images = 0.0, 0, 0
        self._averaged: dict[str, list[float]] = {name: [] for name in AVERAGED}

    def process(self, inputs, outputs) -> None:
        for output in outputs:
            if "bits" in output:
                height, width = output["image_size"]
                self._bits += output["bits"]
                self._pixels += height * width
                self._images += 1
            for name, values in self._averaged.items():
                if output.get(name) is not None:
                    values.append(output[name])

    def evaluate(self) -> OrderedDict | None:
        parts = comm.gather((self._bits, self._pixels, self._images))
        averaged = comm.gather(self._averaged)
        if not comm.is_main_process():
            return None
        bits, pixels, images = (sum(each) for each in zip(*parts, strict=True))
        if not images:
            return OrderedDict()
        rate = {"bpp": bits / pixels, "kB": bits / 8000 / images}
        for name in self._averaged:
            values = [value for part in averaged for value in part[name]]
            if values:
                rate[name] = fmean(values)
        return OrderedDict(rate=rate)
