"""`cdl predict`."""

from __future__ import annotations

import json as json_format
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from cdl_d2.cli.options import Device, Inputs, Json, Model, NotNegative, Positive
from cdl_d2.cli.output import report


def predict(
    model: Model,
    /,
    *inputs: Inputs,
    output: Path,
    annotations: Path | None = None,
    draw: bool = False,
    classes: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    batch_size: Positive = 1,
    workers: NotNegative = 0,
    shard: Annotated[str | None, Parameter(metavar="I/N")] = None,
    ray: bool = False,
    device: Device = None,
    precision: Literal["float32", "bfloat16"] = "float32",
    json: Json = False,
) -> int:
    r"""Run a model on images or bitstreams.

    ```
    cdl predict output/converted coded --output predictions
    cdl predict nuclei-bridge 'archive/*.tar' --output predictions --workers 8 \
        --annotations instances.json
    ```

    A model of latents encodes images; an RGB model decodes bitstreams. A detector writes
    predictions.json in COCO's results format; a segmentation model labels/NAME.png, the class of
    every pixel, and a classifier predictions.csv, the probability of every class. images.json has
    the number of each image.

    Run the command again after an interruption: finished predictions are kept. Under torchrun or as
    a SLURM array each process predicts its own share. A source that cannot be read is reported and
    skipped; the exit status is then 1.

    Args:
        output: Folder of the predictions.
        annotations: Ground truth to evaluate on: COCO-format JSON; for segmentation a folder of
            label maps; for a classifier a folder with a folder of images per class.
        draw: Write pictures/NAME.png.
        classes: Class names, instead of the model's own.
        batch_size: Images per batch, if their sizes agree.
        workers: Processes, of one core each; 0 for none beside this one.
        shard: Predict part I (from 0) of N; default from torchrun or SLURM, or all.
        precision: Type in which the backbone, or a network without one, computes.
        ray: Predict on the Ray cluster of this machine, with so many workers.
    """
    from cdl_d2.files import without_nan
    from cdl_d2.prediction.archive import predict_archive

    archive = predict_archive(
        (model, device, classes, precision),
        inputs,
        output,
        annotations=annotations,
        draw=draw,
        batch_size=batch_size,
        workers=workers,
        shard=shard,
        ray=ray,
        report=partial(report, "cdl predict"),
    )
    if archive.warning:
        report("cdl predict", archive.warning)
    if archive.file is None:
        print("this share is done; the predictions are complete when the others are")
    elif json:
        print(json_format.dumps(without_nan(archive.results)))
    else:
        print(f"{archive.file}: {archive.count} images, {len(archive.failures)} failures")
        for task, values in archive.results.items():
            print(f"{task}: " + ", ".join(starmap("{} {:.3g}".format, values.items())))
    return 1 if archive.failures else 0
