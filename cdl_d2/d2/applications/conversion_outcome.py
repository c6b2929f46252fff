"""Outcome of a conversion of a model of Detectron2, and its report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cdl_d2.codec import Codec
from cdl_d2.conversion.comparison import compare
from cdl_d2.conversion.report import CONVERTED, DECODED, FINE_TUNED, NOT_TUNED, Report
from cdl_d2.conversion.sample_network import SamplePredictor
from cdl_d2.d2.applications.backend import Detectron2Backend
from cdl_d2.d2.building import MISFITS
from cdl_d2.d2.modeling.meta_arch.compressed_detector import CompressedDetector
from cdl_d2.errors import CdlError
from cdl_d2.nn.input.domains import LATENT

DETECTOR_IMAGES = 16  # at most, in the report of a detector, which takes seconds for each


@dataclass
class Outcome:
    """Result of a conversion.

    Attributes:
        explained: share of the variance of what it replaces that the bridge explains, at most 1;
            None if none is fitted.
        history: validation losses of the distillation.
        kept_aside: files of the report, to which nothing is fitted and by which nothing is chosen.
        reader: function from a file to a sample, resized and cropped for evaluation.
        class_names: names of the classes.
        report: agreement with the RGB model; None if too few images were given to keep some aside.
    """

    explained: float | None
    history: list[dict[str, float]]
    kept_aside: list[Path]
    reader: Callable[[Path], dict[str, Any]]
    class_names: tuple[str, ...] = ()
    report: Report | None = field(default=None, init=False)

    def compare(self, teacher: nn.Module, model: nn.Module) -> Report:
        """Compare a converted model with the RGB model, on the files kept aside.

        Args:
            teacher: the RGB model, on the device of the model.
            model: on latents or reconstructions.
        """
        coded_input = model.coded_input
        self.codec: Codec = coded_input.codec
        self._is_bgr = coded_input.channel_order == "BGR"
        if isinstance(model, CompressedDetector):
            self.kept_aside = self.kept_aside[:DETECTOR_IMAGES]
        self.teacher, converted = (
            SamplePredictor(network, coded_input.channel_order, self.codec)
            for network in (teacher, model)
        )
        tuned = FINE_TUNED if self.history else NOT_TUNED
        name = CONVERTED if coded_input.domain == LATENT else tuned
        self.compared: Mapping[str, SamplePredictor] = {DECODED: self.teacher, name: converted}
        self.report = compare(
            *(self.teacher, self.compared, self.kept_aside, self.read, self.codec),
            history=self.history,
        )
        return self.report

    def read(self, file: Path) -> torch.Tensor:
        """Return an image, 3 x H x W, uint8, RGB, resized and cropped as in evaluation."""
        image = self.reader(file)["image"].byte()
        return image.flip(0) if self._is_bgr else image


@torch.no_grad()
def check_prediction(model: nn.Module, sample: dict[str, Any]) -> None:
    """Raise CdlError if a converted model cannot predict an image like those it was fitted to.

    Its output must be one that this package reads: no rotated boxes.
    """
    try:
        [output] = model.eval()([sample])
        Detectron2Backend().read_output(output)
    except MISFITS as error:
        height, width = sample["image"].shape[1:]
        raise CdlError(
            f"the converted model cannot predict an image of {height} x {width} pixels: {error}"
        ) from error
