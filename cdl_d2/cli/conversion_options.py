"""Arguments of `cdl convert`: the RGB model, the options of a conversion, and its codec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from cdl_d2.cli.options import CodecOptions, Device, NotNegative

if TYPE_CHECKING:
    from cdl_d2.conversion import DistillationOptions

RgbModel = Annotated[
    str,
    Parameter(
        help="Trained RGB model: `torchvision/NAME` or `timm/NAME`, a network by name with its "
        "pretrained weights; or a model of Detectron2, in any form that `cdl predict` accepts. "
        "`MODEL:WEIGHTS` names a file of other weights."
    ),
]


@Parameter(name="*", group="Conversion")
@dataclass(frozen=True)
class ConversionOptions:
    """Options of the training that follows the fit.

    Attributes:
        minutes: Time limit of the training.
        iterations: Number of batches at most; 0 for the fit alone. Default 0 for a model of
            Detectron2, 400 for a network by name, or without a limit if --minutes is given.
        adapt: Layers that learn at the whole learning rate, from the input on.
        seed: Seed of batches and augmentation.
        domain: Input of the result: `latent`; or `reconstruction`, for the RGB model fine-tuned on
            decoded images in the same way, to compare with.
        device: Device, `cpu` or `cuda`; default a GPU if there is one.
        report: Write `report.html`, with the table, the losses and pictures.
        entry: Module whose output the bridge replaces, with all before it, for a cheaper network:
            `stem`, `res2` or `res3` of Detectron2's ResNets, `res2` or `res3` of those of timm in
            Detectron2; of a network by name, a module such as `layer1` or `features.3`. Default the
            first convolution.
        finest_level: Finest level of a feature pyramid of Detectron2, such as 3 for P3: finer ones
            and their anchors are left out, and a training uses the RGB model's detections as labels
            of proposals. Default those of the model, behind `res3` from P3 on.
        classes: Class names of a model of Detectron2, in its order. Default those of its config, or
            of its data sets if they are registered.
        qualities: Convert for several qualities, each into a folder `quality-N` of the output, and
            compare their rates; in the place of --quality.
    """

    minutes: float = 0.0
    iterations: int | None = None
    adapt: Literal["bridge", "first-third", "half", "all"] = "first-third"
    seed: int = 0
    domain: Literal["latent", "reconstruction"] = "latent"
    device: Device = None
    report: bool = False
    entry: str = ""
    finest_level: NotNegative = 0
    classes: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ()
    qualities: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = ()

    def distillation(self) -> DistillationOptions:
        """Return the options of the distillation."""
        from cdl_d2.conversion import DistillationOptions

        values: dict[str, Any] = {"minutes": self.minutes, "adapt": self.adapt, "seed": self.seed}
        if self.iterations is not None or self.minutes:
            values["iterations"] = self.iterations or 0
        return DistillationOptions(**values)


@Parameter(name="*", group="Codec")
@dataclass(frozen=True)
class ConversionCodec(CodecOptions):
    """Codec of a conversion, of one quality or of several."""

    quality: int | None = None  # type: ignore[assignment]
