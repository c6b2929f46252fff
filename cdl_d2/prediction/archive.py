"""A model's predictions for a whole archive, part by part.

```
output/plan.json              what is predicted, with which model
output/parts/00000.json ...   some sources, their predictions and failures, and a checksum; written
                              whole, or not at all
output/labels/NAME.png        of a segmentor: the class of every pixel
output/pictures/NAME.png      if asked for: the predictions on the images
output/images.json            names, sizes and ids of all images, and the ids of the classes
output/predictions.json       of a detector, in COCO's results format; or predictions.csv, ...
```

A run that is killed loses the parts that it was working on, and the next one does what is missing,
what failed, and what is of files that have changed since.
Runs on several machines take different parts of one folder; whoever finds all of them there writes
what the parts say together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from cdl_d2.codec.io.image_files import write_png
from cdl_d2.codec.io.weights_file import fingerprint
from cdl_d2.data.datasets.sources import stem_of
from cdl_d2.data.store.plan import read_json
from cdl_d2.errors import CdlError
from cdl_d2.files import is_disk_error, without_nan, write_json
from cdl_d2.prediction.predictor import Outcome, Predictor
from cdl_d2.prediction.reading import StoredLatent, Unreadable
from cdl_d2.prediction.results import Prediction
from cdl_d2.prediction.sources import ArchiveSource
from cdl_d2.prediction.tar_files import TarMember

PART = 64  # sources, or a little more: whole batches
FORMAT = 2


@dataclass(frozen=True)
class ArchivePrediction:
    """Sources, a model, and the folder of its predictions.

    Attributes:
        predictor: the model.
        sources: by name, in order.
        output: folder.
        inputs: words that led to the sources; a folder keeps the predictions of one list of them.
        batch_size: sources that are looked at together.
        draw: whether to write pictures.
        part_size: sources a part, in whole batches, so that none depends on which parts are done.
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
        whole = -(-PART // self.batch_size) * self.batch_size
        object.__setattr__(self, "part_size", self.part_size or whole)
        if self.draw and any(isinstance(each, StoredLatent) for each in self.sources.values()):
            raise CdlError("a latent store has no images to draw on: leave out --draw")

    @cached_property
    def names(self) -> list[str]:
        """Names of the sources, in order."""
        return list(self.sources)

    @cached_property
    def _share_stems(self) -> bool:
        """Whether sources differ in their suffixes only."""
        stems = [stem_of(k) for k, v in self.sources.items() if not isinstance(v, Unreadable)]
        return len({*stems}) < len(stems)

    @property
    def parts(self) -> int:
        """Number of parts."""
        return -(-len(self.sources) // self.part_size)

    def names_of(self, part: int) -> list[str]:
        """Return the names of a part's sources."""
        return self.names[part * self.part_size : (part + 1) * self.part_size]

    def claim(self) -> None:
        """Write the plan, or find the same one in the output folder.

        Of several processes that begin at once, one writes it.

        Raises:
            CdlError: if the folder has predictions of something else, or a damaged plan.
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
        }
        path = self.output / "plan.json"
        self.output.mkdir(parents=True, exist_ok=True)
        try:
            write_json(path, plan, replace=False)
        except FileExistsError:
            before = read_json(path, f"{self.output} holds something else")
            if not isinstance(before, dict):
                raise CdlError(
                    f"{path} is damaged: remove {self.output}, or take another folder"
                ) from None
            for key in plan:
                if before.get(key) != plan[key]:
                    raise CdlError(
                        f"{self.output} has predictions of another run ({key}: "
                        f"{before.get(key)!s:.80}, not {plan[key]!s:.80}): take another folder"
                    ) from None
        (self.output / "parts").mkdir(exist_ok=True)

    def missing_parts(self, share: tuple[int, int] = (0, 1)) -> list[int]:
        """Return the parts of share i of n that are missing, damaged or of files that have changed
        since, or that have failures."""
        index, count = share
        parts = {part: self._read(part) for part in range(index, self.parts, count)}
        return [part for part, content in parts.items() if not content or content["failures"]]

    def predict_parts(
        self, parts: Sequence[int], workers: int = 0
    ) -> Iterator[tuple[str, str | None]]:
        """Write parts; yield each source's name when it is done, and why it failed, if it did."""
        sources = [self.sources[name] for part in parts for name in self.names_of(part)]
        outcomes = self.predictor.outcomes(sources, self.batch_size, workers)
        for part in parts:
            predictions, failures, states = [], {}, self._states(part)
            for name, (_, outcome) in zip(self.names_of(part), outcomes, strict=False):
                entry = self._entry_or_error(name, outcome)
                if isinstance(entry, dict):
                    predictions.append(entry)
                else:
                    failures[name] = str(entry)
                yield name, failures.get(name)
            content = {"sources": states, "failures": failures, "predictions": predictions}
            content = without_nan(content)
            write_json(self._path(part), {"sha256": _digest(content), **content})

    def read_parts(self) -> tuple[list[dict[str, Any]], dict[str, str]] | None:
        """Return all predictions, in order, and the sources that failed and why; None if parts are
        missing, damaged or of files that have changed since."""
        predictions: list[dict[str, Any]] = []
        failures: dict[str, str] = {}
        for part in range(self.parts):
            content = self._read(part)
            if content is None:
                return None
            predictions += content["predictions"]
            failures |= content["failures"]
        return predictions, failures

    def _path(self, part: int) -> Path:
        return self.output / "parts" / f"{part:05d}.json"

    def _read(self, part: int) -> dict[str, Any] | None:
        """Return the content of a part that is whole, and of its sources as they are now."""
        if not self._path(part).is_file():
            return None
        try:
            content = read_json(self._path(part), "")
            sha256 = content.pop("sha256")
            same = content["sources"] == self._states(part) and sha256 == _digest(content)
        except (AttributeError, CdlError, LookupError, RecursionError, TypeError):
            return None
        return content if same else None

    def _states(self, part: int) -> list[list[str | int | None]]:
        """Return name, size and date of a part's sources."""
        return [[name, *_state_of(self.sources[name])] for name in self.names_of(part)]

    def _entry_or_error(self, name: str, outcome: Outcome) -> dict[str, Any] | CdlError | OSError:
        """Return an entry, or the error of a source that is broken or whose files cannot have their
        names; raises OSError if a disk is full or fails."""
        if not isinstance(outcome, Prediction):
            return outcome
        try:
            return self._entry(name, outcome)
        except (CdlError, OSError) as error:
            if is_disk_error(error):
                raise
            return error

    def _entry(self, name: str, found: Prediction) -> dict[str, Any]:
        """What a part says of a source, besides what is in files of its own."""
        height, width = found.image_size
        entry: dict[str, Any] = {"file_name": name, "height": height, "width": width}
        if found.bits is not None:
            entry |= {"bits": found.bits, "bits_per_pixel": found.bits_per_pixel}
        if self.draw:
            self._save(name, "pictures", found.draw())
        return entry | self.predictor.model.task.entry(found, partial(self._save, name))

    def _save(self, name: str, folder: str, pixels: np.ndarray) -> str:
        """Write a picture of a source; its path in the output folder."""
        place = PurePosixPath(folder, name)
        ending = f"{place.suffix}.png" if self._share_stems else ".png"
        place = place.with_suffix(ending)
        write_png(self.output / place, pixels)
        return place.as_posix()


def _state_of(source: ArchiveSource) -> tuple[int | None, int | None]:
    """Return size and date of the file that a source is in."""
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


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
