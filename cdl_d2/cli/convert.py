"""`cdl convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from cdl_d2.cli.options import CodecOptions, Overrides


def convert(
    teacher: Annotated[Path, Parameter(metavar="RUN")],
    /,
    *overrides: Overrides,
    images: Path,
    codec: CodecOptions,
    output: Path,
    entry: Literal["stem", "res2"] = "stem",
    threshold: float = 0.5,
    annotations: Path | None = None,
) -> None:
    """Make a detector of latents of a pixel detector, with unlabelled images only.

    ```
    cdl convert output/pixel_mask_rcnn_small --images photos --output converted \\
        --codec tiny-bmshj2018-hyperprior --quality 2 SOLVER.MAX_ITER 1000
    ```

    The pixel detector teaches, and its confident detections stand in for labels
    (`MODEL.TRANSFER.TASK_WEIGHT 0` leaves only the teaching). The output folder is one of a
    training, with `config.yaml` and `model_final.pth`; the model runs without its teacher. Run it
    again after an interruption: it goes on.

    Args:
        teacher: Output folder of the pixel detector's training.
        images: Folder, searched recursively.
        output: Folder of the student's training.
        entry: After which layer of its ResNet the detector is entered, at stride 4.
        threshold: Lowest score of a detection that stands for an object.
        annotations: COCO-format labels of the images, instead of detections.
    """
    from cdl_d2.d2.engine.convert import Conversion
    from cdl_d2.d2.engine.train_net import Training

    conversion = Conversion(
        teacher, images, codec.choice(), output, entry, threshold, annotations, overrides
    )
    Training(conversion.prepare(), resume=True).launch()
