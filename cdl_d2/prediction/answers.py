"""What the parts of an archive's predictions say together, in files that other tools read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdl_d2.files import write_atomically, write_json
from cdl_d2.prediction.archive import ArchivePrediction
from cdl_d2.prediction.evaluation import (
    CocoTruth,
    Results,
    class_truth,
    classification_results,
    segmentation_results,
)
from cdl_d2.prediction.models import PredictionModel


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


def check_annotations(model: PredictionModel, annotations: Path, names: Sequence[str]) -> None:
    """Raise what write_answers would, for annotations of another model, or of none of the sources.

    Args:
        names: of the sources.
    """
    if model.task == "detection":
        CocoTruth(annotations, model.class_names).check_some(names)
    elif not annotations.is_dir():
        raise FileNotFoundError(f"there is no folder of annotations {annotations}")
    elif model.task == "classification":
        class_truth(annotations, model.class_names)


def write_answers(archive: ArchivePrediction, annotations: Path | None = None) -> Answers:
    """Write `images.json`, the file of predictions, and with annotations `results.json`.

    Args:
        annotations: COCO-format JSON for a detector; for a segmentor a folder of label maps, for a
            classifier one with a folder of images for each class.

    Raises:
        CdlError, OSError: if a part is missing or damaged; for annotations of something else.
    """
    entries, failures = list(archive.read_parts()), archive.failures()
    names, task = archive.predictor.model.class_names, archive.predictor.model.task
    results: Results = {}
    truth = CocoTruth(annotations, names) if task == "detection" and annotations else None
    category_ids = truth.category_ids if truth else list(range(1, len(names) + 1))
    _number(entries, truth)
    file = archive.output / ("predictions.json" if task == "detection" else "predictions.csv")
    if task == "detection":
        found = _coco_results(entries, category_ids)
        text = json.dumps(found)
    elif task == "segmentation":
        text = _rows(["file", "label_map"], [(e["file_name"], e["label_map"]) for e in entries])
    else:
        text = _class_rows(entries, names)
    with write_atomically(file) as temporary:  # before anything is compared with annotations
        temporary.write_bytes(text.encode(errors="surrogateescape"))  # names are as on the disk
    shown = ("id", "file_name", "height", "width", "bits", "bits_per_pixel")
    content = {
        "images": [{key: entry[key] for key in shown if key in entry} for entry in entries],
        "categories": [{"id": i, "name": n} for i, n in zip(category_ids, names, strict=True)],
        "failures": failures,
    }
    write_json(archive.output / "images.json", content)
    if truth:
        results = truth.results(found, entries, archive.names)
    elif annotations and task == "segmentation":
        results = segmentation_results(annotations, entries, archive.output, names)
    elif annotations:
        results = classification_results(annotations, entries, names)
    results |= _rate(entries)
    if annotations:
        write_json(archive.output / "results.json", results)
    return Answers(file, len(entries), failures, results)


def _number(entries: list[dict[str, Any]], truth: CocoTruth | None) -> None:
    """Give each image its number; those that the annotations do not have get new ones."""
    known = [truth.image_id(entry["file_name"]) if truth else None for entry in entries]
    free = max([0, *(number for number in known if number is not None)]) + 1
    for entry, number in zip(entries, known, strict=True):
        entry["id"] = free if number is None else number
        free += number is None


def _coco_results(entries: list[dict[str, Any]], category_ids: list[int]) -> list[dict[str, Any]]:
    return [
        found | {"image_id": entry["id"], "category_id": category_ids[found["category_id"] - 1]}
        for entry in entries
        for found in entry["objects"]
    ]


def _class_rows(entries: list[dict[str, Any]], names: tuple[str, ...]) -> str:
    rows = []
    for entry in entries:
        best = max(range(len(names)), key=entry["probabilities"].__getitem__)
        shares = [f"{value:.6f}" for value in entry["probabilities"]]
        rows.append((entry["file_name"], names[best], *shares))
    return _rows(["file", "class", *names], rows)


def _rows(head: list[str], rows: list[tuple]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return text.getvalue()


def _rate(entries: list[dict[str, Any]]) -> Results:
    """Bits a pixel of the coded images, all bits over all pixels as they were coded."""
    coded = [entry for entry in entries if "bits" in entry]
    pixels = sum(entry["bits"] / entry["bits_per_pixel"] for entry in coded)
    return {"rate": {"bpp": sum(entry["bits"] for entry in coded) / pixels}} if coded else {}
