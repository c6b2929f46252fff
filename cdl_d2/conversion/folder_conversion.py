"""Arguments of a conversion that writes a model's folder, and its earlier report."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cdl_d2.codec import CodecChoice
from cdl_d2.conversion.distillation import DistillationOptions
from cdl_d2.conversion.output_folder import describe_images, read_finished_report
from cdl_d2.conversion.report import Report
from cdl_d2.nn.input.domains import LATENT


@dataclass(frozen=True, eq=False)
class FolderConversion(ABC):
    """Conversion of an RGB model with its arguments; a subclass runs it.

    Attributes:
        source: the RGB model; its type is the subclass's.
        images: files of unlabelled images.
        codec: codec of the latents or reconstructions.
        output: folder to write.
        options: options of the distillation.
        domain: `latent`; or `reconstruction`, for the RGB model on decoded images, trained in the
            same way.
        device: `cpu` or `cuda`.
        entry: part of the RGB model whose output the bridge replaces; default the first
            convolution.
    """

    source: Any
    images: Sequence[Path]
    codec: CodecChoice
    output: Path
    options: DistillationOptions
    domain: str = LATENT
    device: str = "cpu"
    entry: str = ""

    @abstractmethod
    def describe_model(self) -> dict[str, Any]:
        """Return what the result depends on beside options and images, as JSON values."""

    def finished_report(self) -> Report | None:
        """Return the report of the same conversion if the output folder has its result."""
        return read_finished_report(self.output, self.record())

    def record(self) -> dict[str, Any]:
        """Return all that the result depends on, as JSON values."""
        parts = {"distillation": asdict(self.options), "images": describe_images(self.images)}
        return self.describe_model() | parts

    def absolute_codec(self) -> CodecChoice:
        """Return the codec with the full path of its weights, if they are a file."""
        weights = Path(self.codec.weights)
        if not (self.codec.weights and weights.is_file()):
            return self.codec
        return replace(self.codec, weights=str(weights.absolute()))
