"""What the parts of an archive's predictions say together, in files that other tools read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdl_d2.data.datasets.sources import stem_of
from cdl_d2.errors import CdlError
from cdl_d2.files import write_atomically, write_json
from cdl_d2.metrics.rate import RateTotals
from cdl_d2.prediction.archive import ArchivePrediction
from cdl_d2.prediction.predictor import Predictor
from cdl_d2.prediction.reading import Source
from cdl_d2.prediction.tasks import GroundTruth, Results


@dataclass(frozen=True)
class Answers:
    """What became of an archive.

    Attributes:
        file: with the predictions.
        count: of the predictions.
        failures: the sources that could not be read, and why.
        results: accuracy, if annotations were given, and `rate`.
    """

    file: Path
    count: int
    failures: dict[str, str]
    results: Results


def check_annotations(
    predictor: Predictor, annotations: Path, sources: Mapping[str, Source]
) -> None:
    """Raise what write_answers would: for annotations of another model, of none of the sources, or
    of another shape than one of them; also if one image is annotated and two sources are named as
    it is. Sources that cannot be read are passed over.

    Args:
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
        other = names.setdefault(stem_of(name) if image is None else image, name)
        if other != name:
            raise CdlError(f"{other} and {name} are one image in {annotations}: leave one out")
        if ground_truth.size(name) is None:
            continue
        try:
            size = predictor.read.size(source)
        except (CdlError, OSError):  # reported when it is predicted
            continue
        ground_truth.check_size(name, size)


def write_answers(archive: ArchivePrediction, annotations: Path | None = None) -> Answers | None:
    """Write `images.json`, the file of predictions, and with annotations `results.json`.

    Args:
        annotations: what the `ground_truth` of the model's task reads.

    Returns:
        what became of the archive; None, and nothing is written, if parts are missing.

    Raises:
        CdlError, OSError: for annotations of something else; if a file cannot be written.
    """
    parts = archive.read_parts()
    if parts is None:
        return None
    entries, failures = parts
    task, names = archive.predictor.model.task, archive.predictor.model.class_names
    ground_truth = task.ground_truth(annotations, names) if annotations else None
    if ground_truth:
        entries = [
            ground_truth.rescale(e) if ground_truth.has(e["file_name"]) else e for e in entries
        ]
    ids = (ground_truth and ground_truth.category_ids) or range(1, len(names) + 1)
    categories = [{"id": i, "name": n} for i, n in zip(ids, names, strict=True)]
    _number(entries, ground_truth)
    texts = {task.answers: task.text(entries, categories)} | task.more_texts(entries, categories)
    _write_texts(archive.output, texts)  # before anything is compared with annotations
    shown = ("id", "file_name", "height", "width", "bits", "bits_per_pixel")
    content = {
        "images": [{key: entry[key] for key in shown if key in entry} for entry in entries],
        "categories": categories,
        "failures": failures,
    }
    write_json(archive.output / "images.json", content)
    results = ground_truth.results(entries, archive.names, archive.output) if ground_truth else {}
    results |= _rate(entries)
    if annotations:
        write_json(archive.output / "results.json", results)
    return Answers(archive.output / task.answers, len(entries), failures, results)


def _write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        with write_atomically(folder / name) as temporary:
            temporary.write_bytes(text.encode(errors="surrogateescape"))  # names are as on the disk


def _number(entries: list[dict[str, Any]], ground_truth: GroundTruth | None) -> None:
    """Give each image its number; those that the annotations do not have get new ones."""
    known = [
        ground_truth.image_id(entry["file_name"]) if ground_truth else None for entry in entries
    ]
    free = max([0, *(number for number in known if number is not None)]) + 1
    for entry, number in zip(entries, known, strict=True):
        entry["id"] = free if number is None else number
        free += number is None


def _rate(records: list[dict[str, Any]]) -> Results:
    """Return `rate`: `bpp` of the coded images, over their pixels as they were coded."""
    rate = RateTotals()
    for record in records:
        if "bits" in record:
            rate.add(record["bits"], record["bits"] / record["bits_per_pixel"])
    return {"rate": {"bpp": rate.results()["bpp"]}} if rate.images else {}
