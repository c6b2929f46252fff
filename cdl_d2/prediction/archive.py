"""Predictions of a model for a whole archive, part by part.

```
output/plan.json              the manifest: inputs, model and options
output/parts/00000.json ...   some sources, their predictions and failures, and a checksum; written
                              completely, or not at all
output/labels/NAME.png        for segmentation: the class of every pixel
output/pictures/NAME.png      if asked for: the predictions on the images
output/images.json            names, sizes and ids of all images, and the ids of the classes
output/predictions.json       for detection, in COCO's results format; or predictions.csv, ...
```

A run that is killed loses the parts that it was working on. The next run predicts what is missing,
what failed, and what belongs to files that have changed since.
Runs on several machines take different parts of one folder; the run that finds all parts merges
them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from tqdm import tqdm

from cdl_d2.codec.io.image_files import write_png
from cdl_d2.codec.io.state_dicts import fingerprint
from cdl_d2.data.datasets.image_lists import image_key
from cdl_d2.errors import CdlError
from cdl_d2.files import is_disk_error, without_nan, write_json
from cdl_d2.prediction.merging import ArchiveResults, check_annotations, merge_parts
from cdl_d2.prediction.models import Outcome
from cdl_d2.prediction.predictor import Predictor
from cdl_d2.prediction.reading import StoredLatent, Unreadable
from cdl_d2.prediction.results import Prediction
from cdl_d2.prediction.sources import ArchiveSource, find_sources
from cdl_d2.prediction.tar_files import TarMember
from cdl_d2.workers import read_job_part

PART_SIZE = 64  # sources, or a little more: whole batches
FORMAT = 2


def predict_archive(
    model: tuple[str, str | None, Sequence[str] | None, str],
    inputs: Sequence[str],
    output: Path,
    annotations: Path | None = None,
    draw: bool = False,
    batch_size: int = 1,
    workers: int = 0,
    shard: str | None = None,
    ray: bool = False,
    report: Callable[[str], None] = print,
) -> ArchiveResults:
    """Predict all sources of the inputs that are not predicted yet, and merge the parts.

    Args:
        model: arguments of Predictor.load.
        inputs: files, folders and globs, as find_sources takes them.
        output: folder of the predictions.
        annotations: ground truth, as the model's task reads it.
        draw: whether to write pictures.
        batch_size: sources per batch, if their sizes agree.
        workers: processes, or actors on a Ray cluster.
        shard: i/n for part i (from 0) of n; None for that of torchrun or SLURM, or for all.
        ray: whether to predict on a Ray cluster.
        report: function that is called with a line for each source that fails.

    Raises:
        CdlError, OSError: for unusable arguments, or if the output folder has other predictions.
    """
    share = read_job_part(shard)
    predictor = Predictor.load(*model)
    sources = find_sources(inputs, output)
    if annotations is not None:
        check_annotations(predictor, annotations, sources)
    paths = tuple(map(os.path.abspath, inputs))
    archive = ArchivePrediction(predictor, sources, output, paths, batch_size, draw)
    archive.write_plan()
    missing = archive.missing_parts(share)
    if ray and missing:
        from cdl_d2.prediction.ray_prediction import predict_parts_with_ray

        outcomes = predict_parts_with_ray(model, archive, missing, max(workers, 1))
    else:
        outcomes = archive.predict_parts(missing, workers)
    total, failures = sum(len(archive.names_in(part)) for part in missing), {}
    with tqdm(total=total, unit="image", disable=not total) as progress:
        for name, error in outcomes:
            progress.update()
            if error is not None:
                failures[name] = error
                report(error if name in error else f"{name}: {error}")
    parts = archive.read_parts()
    if parts is None:
        return ArchiveResults(None, total, failures, {})
    return merge_parts(predictor.model, *parts, archive.names, output, annotations)


@dataclass(frozen=True)
class ArchivePrediction:
    """Sources by name, in order, a model, and the folder of its predictions.

    Attributes:
        inputs: paths of the sources; a folder holds the predictions of one list of them.
        batch_size: sources per batch.
        draw: whether to write pictures.
        part_size: sources per part, in whole batches, so that no batch depends on finished parts.
    """

    predictor: Predictor
    sources: dict[str, ArchiveSource]
    output: Path
    inputs: tuple[str, ...] = ()
    batch_size: int = 1
    draw: bool = False
    part_size: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise CdlError(f"a batch size of {self.batch_size} is below 1")
        batches = -(-PART_SIZE // self.batch_size)
        object.__setattr__(self, "part_size", self.part_size or batches * self.batch_size)
        if self.draw and any(isinstance(s, StoredLatent) for s in self.sources.values()):
            raise CdlError("a latent store has no images to draw on")

    @cached_property
    def names(self) -> list[str]:
        """Names of the sources, in order."""
        return list(self.sources)

    @cached_property
    def _has_shared_stems(self) -> bool:
        """True if sources differ in their suffixes only."""
        stems = [image_key(k) for k, v in self.sources.items() if not isinstance(v, Unreadable)]
        return len({*stems}) < len(stems)

    @property
    def part_count(self) -> int:
        """Number of parts."""
        return -(-len(self.sources) // self.part_size)

    def names_in(self, part: int) -> list[str]:
        """Return the names of a part's sources."""
        return self.names[part * self.part_size : (part + 1) * self.part_size]

    def write_plan(self) -> None:
        """Write the plan, or check that the output folder has the same one.

        Of several processes that start at once, one writes it.

        Raises:
            CdlError: if the folder has predictions of another run, or a corrupted plan.
            OSError: if it cannot be written.
        """
        plan = {
            "format": FORMAT,
            "model": fingerprint(self.predictor.model.network),
            "classes": list(self.predictor.model.class_names),
            "inputs": list(self.inputs),
            "batch_size": self.batch_size,
            "part_size": self.part_size,
            "draw": self.draw,
            "precision": self.predictor.model.precision,
        }
        path = self.output / "plan.json"
        self.output.mkdir(parents=True, exist_ok=True)
        try:
            write_json(path, plan, replace=False)
        except FileExistsError:
            existing = _read_json(path)
            if existing is None:
                raise CdlError(
                    f"{path} is corrupted: remove {self.output}, or take another folder"
                ) from None
            existing = {"precision": "float32"} | existing  # of a plan before there was a choice
            for key in plan:
                if existing.get(key) != plan[key]:
                    raise CdlError(
                        f"{self.output} has predictions of another run ({key}: "
                        f"{existing.get(key)!s:.80}, not {plan[key]!s:.80}): take another folder"
                    ) from None
        (self.output / "parts").mkdir(exist_ok=True)

    def missing_parts(self, share: tuple[int, int] = (0, 1)) -> list[int]:
        """Return the parts of share i of n that are missing, outdated or have failures."""
        index, count = share
        parts = {part: self._read(part) for part in range(index, self.part_count, count)}
        return [part for part, content in parts.items() if not content or content["failures"]]

    def predict_parts(
        self, parts: Sequence[int], workers: int = 0
    ) -> Iterator[tuple[str, str | None]]:
        """Write parts; yield each source's name, when it is done, and its error or None."""
        sources = [self.sources[name] for part in parts for name in self.names_in(part)]
        outcomes = self.predictor.outcomes(sources, self.batch_size, workers)
        for part in parts:
            records, failures, states, path = [], {}, self._states(part), self._path(part)
            for name, (_, outcome) in zip(self.names_in(part), outcomes, strict=False):
                record = self._record_or_error(name, outcome)
                if isinstance(record, dict):
                    records.append(record)
                else:
                    failures[name] = str(record)
                yield name, failures.get(name)
            content = {"sources": states, "failures": failures, "predictions": records}
            text = json.dumps(content := without_nan(content))  # the same when it is read
            digest = hashlib.sha256(text.encode()).hexdigest()
            write_json(path, {"sha256": digest, **content})

    def read_parts(self) -> tuple[list[dict[str, Any]], dict[str, str]] | None:
        """Return all records, in order, and the errors of failed sources; None if parts lack."""
        records: list[dict[str, Any]] = []
        failures: dict[str, str] = {}
        for part in range(self.part_count):
            content = self._read(part)
            if content is None:
                return None
            records += content["predictions"]
            failures |= content["failures"]
        return records, failures

    def _path(self, part: int) -> Path:
        return self.output / "parts" / f"{part:05d}.json"

    def _read(self, part: int) -> dict[str, Any] | None:
        """Return the content of a part that is complete and up to date, else None."""
        content = _read_json(self._path(part)) or {}
        sha256, states = content.pop("sha256", None), self._states(part)
        try:
            digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        except (RecursionError, ValueError):
            return None
        return content if (content.get("sources"), sha256) == (states, digest) else None

    def _states(self, part: int) -> list[list[str | int | None]]:
        """Return name, size and date of a part's sources."""
        return [[name, *_state(self.sources[name])] for name in self.names_in(part)]

    def _record_or_error(self, name: str, outcome: Outcome) -> dict[str, Any] | Exception:
        """Return a record, or the error of its source; raise OSError if a disk is full or fails."""
        if not isinstance(outcome, Prediction):
            return outcome
        try:
            return self._record(name, outcome)
        except (CdlError, OSError) as error:
            if is_disk_error(error):
                raise
            return error

    def _record(self, name: str, prediction: Prediction) -> dict[str, Any]:
        """Return what a part holds of a prediction, and write its files."""
        height, width = prediction.image_size
        record: dict[str, Any] = {"file_name": name, "height": height, "width": width}
        if prediction.bits is not None:
            record |= {"bits": prediction.bits, "bits_per_pixel": prediction.bits_per_pixel}
        if self.draw:
            self._save(name, "pictures", prediction.draw())
        return record | self.predictor.model.task.to_record(prediction, partial(self._save, name))

    def _save(self, name: str, folder: str, pixels: np.ndarray) -> str:
        """Write a picture of a source; return its path in the output folder."""
        path = PurePosixPath(folder, name)
        path = path.with_suffix(f"{path.suffix}.png" if self._has_shared_stems else ".png")
        write_png(self.output / path, pixels)
        return str(path)


def _state(source: ArchiveSource) -> tuple[int | None, int | None]:
    """Return size and date of a source's file, of a stored latent those of the store's manifest."""
    if isinstance(source, Unreadable):
        return None, None
    if isinstance(source, StoredLatent):
        path = source.store / "manifest.json"
    else:
        path = source.archive if isinstance(source, TarMember) else source
    try:
        state = path.stat()
    except OSError:
        return None, None
    return state.st_size, state.st_mtime_ns


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
