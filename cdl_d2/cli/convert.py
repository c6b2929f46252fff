"""`cdl convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cdl_d2.cli.options import CodecOptions, Overrides
from cdl_d2.cli.output import report

LEAST_EXPLAINED = 0.5  # of the variance; fits that work leave a few percent


def convert(
    teacher: Annotated[str, Parameter(metavar="RUN")],
    /,
    *overrides: Overrides,
    images: Path,
    codec: CodecOptions,
    output: Path,
    weights: str | None = None,
    iterations: int = 0,
    threshold: float = 0.5,
    annotations: Path | None = None,
) -> None:
    """Make a model of latents of a pixel model, with unlabelled images only.

    ```
    cdl convert output/pixel_mask_rcnn_small --images photos --output converted \\
        --codec tiny-bmshj2018-hyperprior --quality 2
    ```

    A linear map from latents takes the place of the first convolution of a detector, segmentor or
    classifier; it is fitted to the images in a minute, without training. The output folder is one
    of a training, with `config.yaml` and `model_final.pth`; the model runs without its teacher.

    With iterations, an R-CNN is trained on from there: taught by the pixel detector, whose
    confident detections stand in for labels (`MODEL.TRANSFER.TASK_WEIGHT 0` leaves only the
    teaching). Run it again after an interruption: it goes on.

    Args:
        teacher: The pixel model: output folder of a training, or a config.
        images: Folder, searched recursively.
        output: Folder of the model, as of a training.
        weights: File or URL of the pixel model; default those beside its config or in its
            OUTPUT_DIR, or in Detectron2's zoo for a config of it.
        iterations: Of training after the fit.
        threshold: Lowest score of a detection that stands for an object.
        annotations: COCO-format labels of the images, instead of detections.
    """
    from cdl_d2.d2.applications.convert import Conversion

    explained = Conversion(
        teacher,
        images,
        codec.choice(),
        output,
        weights,
        iterations,
        threshold,
        annotations,
        overrides,
    ).run()
    if explained is not None:
        print(
            f"{output}: from latents, {100 * explained:.1f} % of the variance of what the first "
            "convolution gives of images"
        )
        if explained < LEAST_EXPLAINED:
            report(
                "cdl convert",
                "so little makes no useful model: is the codec trained (--codec-weights), and are "
                "the images like those that the model is for?",
            )
