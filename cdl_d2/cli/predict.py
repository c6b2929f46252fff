"""`cdl predict`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from tqdm import tqdm

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
    json: Json = False,
) -> int:
    """Run a model over images or bitstreams: files, folders, globs, tar files, latent stores.

    ```
    cdl predict output/converted coded --output answers
    cdl predict nuclei-bridge 'archive/*.tar' --output answers --workers 8 \\
        --annotations instances.json
    ```

    A detector writes predictions.json in COCO's results format; a segmentor labels/NAME.png, the
    class of every pixel, and a classifier predictions.csv, with the probability of every class.
    images.json says which number an image has.

    Run it again after an interruption: what is finished is kept. Under torchrun or as a SLURM array
    each process does its own share. A broken file is reported and passed over; the exit status is
    then 1.

    Args:
        output: Folder of the predictions.
        annotations: To evaluate on: COCO-format JSON; for a segmentor a folder of label maps; for a
            classifier a folder with a folder of images for each class.
        draw: Write pictures/NAME.png.
        classes: Their names, instead of those that the model says.
        batch_size: Images that are looked at together, where their sizes agree.
        workers: Processes, one core each; 0 for this one alone.
        shard: Do part i (from 0) of n; default from torchrun or SLURM, or all.
        ray: On the Ray cluster that this machine is in, with so many workers.
    """
    from cdl_d2.data.datasets.sources import part_of
    from cdl_d2.errors import CdlError
    from cdl_d2.prediction.answers import check_annotations, write_answers
    from cdl_d2.prediction.archive import ArchivePrediction
    from cdl_d2.prediction.ray_prediction import ModelChoice, predict_parts_with_ray
    from cdl_d2.prediction.sources import find_sources

    if not inputs:
        raise CdlError("nothing to predict: give images, bitstreams, or folders of them")
    if workers < 0:
        raise CdlError(f"--workers {workers} is below 0")
    share = part_of(shard)
    chosen = ModelChoice(model, device, tuple(classes) if classes else None)
    predictor = chosen.load()
    sources = find_sources(inputs, output)
    if annotations is not None:
        check_annotations(predictor, annotations, sources)
    places = tuple(os.path.abspath(given) for given in inputs)
    archive = ArchivePrediction(predictor, sources, output, places, batch_size, draw)
    archive.claim()
    missing = archive.missing_parts(share)
    if ray and missing:
        done = predict_parts_with_ray(chosen, archive, missing, max(workers, 1))
    else:
        done = archive.predict_parts(missing, workers)
    total = sum(len(archive.names_of(part)) for part in missing)
    failed = 0
    with tqdm(total=total, unit="image", disable=not total) as progress:
        for name, error in done:
            progress.update()
            if error is not None:
                failed += 1
                report("cdl predict", error if name in error else f"{name}: {error}")
    answers = write_answers(archive, annotations)
    if answers is None:
        print("this share is done; the predictions are complete when the others are")
        return 1 if failed else 0
    _print(answers, json)
    return 1 if answers.failures else 0


def _print(answers, as_json: bool) -> None:
    import json

    from cdl_d2.files import without_nan

    if as_json:
        print(json.dumps(without_nan(answers.results)))
        return
    print(f"{answers.file}: {answers.count} images, {len(answers.failures)} broken")
    for task, values in answers.results.items():
        print(f"{task}: " + ", ".join(f"{name} {value:.3g}" for name, value in values.items()))
