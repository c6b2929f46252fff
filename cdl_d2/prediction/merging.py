"""Merging of the parts of an archive's predictions into files that other tools read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from cdl_d2.data.datasets.image_lists import image_key
from cdl_d2.errors import CdlError
from cdl_d2.files import write_atomically, write_json
from cdl_d2.prediction.models import PredictionModel
from cdl_d2.prediction.predictor import Predictor
from cdl_d2.prediction.reading import Source
from cdl_d2.prediction.tasks import GroundTruth, Record, Results

IMAGE_KEYS = ("id", "file_name", "height", "width", "bits", "bits_per_pixel")  # of images.json
SCALE_TOLERANCE = 1.1  # ratio of sides


@dataclass(frozen=True)
class ArchiveResults:
    """Results of an archive's predictions.

    Attributes:
        file: file of the predictions; None while other processes still predict parts.
        count: number of predictions, of all parts or of those of this process.
        failures: errors by source that could not be read.
        results: accuracy, if annotations were given, and `rate`; `images`, the numbers of
            all `annotated` images and of those that were `given`, if they differ.
        warning: text about files that were coded at another size than the model's, or None.
    """

    file: Path | None
    count: int
    failures: dict[str, str]
    results: Results
    warning: str | None = None


def check_annotations(
    predictor: Predictor, annotations: Path, sources: Mapping[str, Source]
) -> None:
    """Raise CdlError if annotations do not fit the model or the sources.

    They must be of the model's classes, annotate some of the sources, each one once, and have their
    aspect ratios. Sources that cannot be read are skipped.

    Args:
        predictor: predictor of the model.
        annotations: file or folder of the annotations.
        sources: by name.
    """
    model = predictor.model
    ground_truth = model.task.ground_truth(annotations, model.class_names)
    ground_truth.require_any(sources)
    names: dict[object, str] = {}
    for name, source in sources.items():
        if not ground_truth.has(name):
            continue
        image = ground_truth.image_id(name)
        first = names.setdefault(image_key(name) if image is None else image, name)
        if first != name:
            raise CdlError(f"{first} and {name} are one image in {annotations}: leave one out")
        if ground_truth.size(name) is None:
            continue
        try:
            size = predictor.read.size(source)
        except (CdlError, OSError):  # reported when it is predicted
            continue
        ground_truth.check_size(name, size)


def scale_warning(
    resize: Callable[[torch.Tensor], torch.Tensor], records: Sequence[Record]
) -> str | None:
    """Return a warning if images were coded at another size than that of the model's evaluation.

    Args:
        resize: resizing or cropping of an image in evaluation.
        records: of predictions.
    """

    @cache
    def expected(height: int, width: int) -> tuple[int, ...]:
        return tuple(resize(torch.zeros(3, height, width, dtype=torch.uint8)).shape[1:])

    coded, unequal = [record for record in records if "bits" in record], []
    for record in coded:
        size = expected(record["height"], record["width"])
        pixels = record["bits"] / record["bits_per_pixel"]  # of the coded image
        scale = math.sqrt(pixels / math.prod(size))
        if max(scale, 1 / scale) > SCALE_TOLERANCE:
            unequal.append((record["file_name"], scale, size))
    if not unequal:
        return None
    name, scale, (height, width) = unequal[0]
    return (
        f"warning: {len(unequal)} of {len(coded)} files are coded at another size than images have "
        f"in the model's evaluation, such as {name} at {scale:.2f} times of {height} x {width} "
        "pixels. What a file holds is not resized: objects have another scale than in training, "
        "and accuracy can fall. If the images are at hand, compress them by `cdl codec compress "
        "--for MODEL`"
    )


def merge_parts(
    model: PredictionModel,
    records: Sequence[Record],
    failures: dict[str, str],
    names: Sequence[str],
    output: Path,
    annotations: Path | None = None,
) -> ArchiveResults:
    """Write `images.json`, the file of predictions, and with annotations `results.json`.

    Args:
        model: model that made the predictions.
        records: of all predictions, in order.
        failures: errors by source.
        names: of all sources.
        output: folder to write to.
        annotations: as the `ground_truth` of the model's task reads them.

    Raises:
        CdlError, OSError: if the annotations do not fit, or a file cannot be written.
    """
    task, results = model.task, {}
    ground_truth = task.ground_truth(annotations, model.class_names) if annotations else None
    if ground_truth:
        records = [
            ground_truth.rescale(r) if ground_truth.has(r["file_name"]) else r for r in records
        ]
    ids = (ground_truth and ground_truth.category_ids) or range(1, len(model.class_names) + 1)
    categories = [{"id": i, "name": n} for i, n in zip(ids, model.class_names, strict=True)]
    records = _number(records, ground_truth)
    content = {
        "images": [{key: r[key] for key in IMAGE_KEYS if key in r} for r in records],
        "categories": categories,
        "failures": failures,
    }
    rate, warning = _rate(records), scale_warning(model.resize, records)
    for name, text in task.format_files(records, categories).items():  # before any evaluation
        with write_atomically(output / name) as temporary:
            temporary.write_bytes(text.encode(errors="surrogateescape"))  # names as on the disk
    write_json(output / "images.json", content)
    if ground_truth:
        results = ground_truth.results(records, names, output)
        counts = {"given": sum(map(ground_truth.has, names)), "annotated": ground_truth.count()}
        if counts["annotated"] is not None and counts["given"] < counts["annotated"]:
            results["images"] = counts
    results |= rate
    if annotations:
        write_json(output / "results.json", results)
    return ArchiveResults(output / task.predictions_file, len(records), failures, results, warning)


def _number(records: Sequence[Record], ground_truth: GroundTruth | None) -> list[Record]:
    """Add the `id` of each image: that of the annotations, or a new one."""
    ids = [ground_truth.image_id(r["file_name"]) if ground_truth else None for r in records]
    free = max([0, *(number for number in ids if number is not None)]) + 1
    numbered = []
    for record, number in zip(records, ids, strict=True):
        numbered.append(record | {"id": free if number is None else number})
        free += number is None
    return numbered


def _rate(records: Sequence[Record]) -> Results:
    """Return `rate`: `bpp` of the coded images, over their pixels as they were coded."""
    coded = [record for record in records if "bits" in record]
    pixels = sum(record["bits"] / record["bits_per_pixel"] for record in coded)
    return {"rate": {"bpp": sum(record["bits"] for record in coded) / pixels}} if coded else {}
