"""`cdl convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cdl_d2.cli.options import CodecOptions, Overrides
from cdl_d2.cli.output import report

LEAST_EXPLAINED = 0.5  # share of the variance; useful fits leave a few percent unexplained


def convert(
    model: Annotated[str, Parameter(metavar="MODEL")],
    /,
    *overrides: Overrides,
    images: Path,
    codec: CodecOptions,
    output: Path,
    weights: str | None = None,
) -> None:
    """Convert a trained RGB model to latent input, with unlabelled images and without training.

    ```
    cdl convert output/pixel_mask_rcnn_small --images photos --output converted \\
        --codec tiny-bmshj2018-hyperprior --quality 2
    ```

    An adapter (bridge) replaces the first convolution of a detector, segmentation model or
    classifier; it is fitted in closed form to the images, in about a minute. The output folder has
    a `config.yaml` and a `model_final.pth`, as that of a training.

    Args:
        model: RGB model: output folder of a training, or a config.
        images: Folder of images, searched recursively.
        output: Folder to write the model to.
        weights: File or URL of the RGB model's weights; default those beside its config or in its
            OUTPUT_DIR, or in Detectron2's zoo for a config of it.
    """
    from cdl_d2.d2.applications.convert import Conversion

    explained = Conversion(model, images, codec.choice(), output, weights, overrides).run()
    print(
        f"{output}: the bridge explains {100 * explained:.1f} % of the variance of the first "
        "convolution's output"
    )
    if explained < LEAST_EXPLAINED:
        report(
            "cdl convert",
            "too little for a useful model: is the codec trained (--codec-weights), and do the "
            "images resemble those that the model is for?",
        )
