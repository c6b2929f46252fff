"""A model's predictions for a whole archive, part by part.

```
output/plan.json              what is predicted, with which model
output/parts/00000.json ...   the predictions of some sources; written whole, or not at all;
                              00000.failures.json of those that are broken, which are tried again
output/labels/NAME.png        of a segmentor: the class of every pixel
output/pictures/NAME.png      if asked for: the predictions on the images
output/images.json            names, sizes and ids of all images, and the ids of the classes
output/predictions.json       of a detector, in COCO's results format; or predictions.csv, ...
```

A run that is killed loses the parts that it was working on, and the next one does what is missing.
Runs on several machines take different parts of one folder; whoever finds all of them there writes
what the parts say together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from cdl_d2.codec.image_files import write_png
from cdl_d2.codec.weights_file import fingerprint
from cdl_d2.data.store.plan import read_json
from cdl_d2.errors import CdlError
from cdl_d2.files import write_json
from cdl_d2.prediction.predictor import Predictor
from cdl_d2.prediction.reading import StoredLatent, TarMember
from cdl_d2.prediction.results import Prediction
from cdl_d2.prediction.sources import ArchiveSource

PART = 64  # sources, or a little more: whole batches
FORMAT = 1


@dataclass(frozen=True)
class ArchivePrediction:
    """Sources, a model, and the folder of its predictions.

    Attributes:
        predictor: the model.
        sources: by name, in order.
        output: folder.
        batch_size: sources that are looked at together.
        draw: whether to write pictures.
        part_size: sources a part, in whole batches, so that none depends on which parts are done.
    """

    predictor: Predictor
    sources: dict[str, ArchiveSource]
    output: Path
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
        """Of the sources, in order."""
        return list(self.sources)

    @property
    def parts(self) -> int:
        """How many parts there are."""
        return -(-len(self.sources) // self.part_size)

    def names_of(self, part: int) -> list[str]:
        """The sources of a part."""
        return self.names[part * self.part_size : (part + 1) * self.part_size]

    def claim(self) -> None:
        """Write the plan, or find the same one in the output folder.

        Raises:
            CdlError: if the folder has predictions of something else.
            OSError: if it cannot be written.
        """
        network = self.predictor.model.network
        listing = "\n".join(f"{name} {_state_of(s)}" for name, s in self.sources.items())
        plan = {
            "format": FORMAT,
            "model": fingerprint(network),
            "classes": list(self.predictor.model.class_names),
            "sources": hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest(),
            "count": len(self.sources),
            "batch_size": self.batch_size,
            "draw": self.draw,
        }
        path = self.output / "plan.json"
        if path.is_file():
            before = read_json(path, "")
            different = [key for key in plan if before.get(key) != plan[key]]
            if different:
                raise CdlError(
                    f"{self.output} has predictions of another run ({different[0]}: "
                    f"{before.get(different[0])}, not {plan[different[0]]}): give another --output"
                )
            return
        (self.output / "parts").mkdir(parents=True, exist_ok=True)
        write_json(path, plan)

    def missing_parts(self, share: tuple[int, int] = (0, 1)) -> list[int]:
        """The parts of share i of n that are not written yet, or were written with failures."""
        index, count = share
        return [
            part
            for part in range(index, self.parts, count)
            if not self.is_written(part) or self._broken(part).exists()
        ]

    def is_written(self, part: int) -> bool:
        """Whether a part has been predicted, perhaps with failures."""
        return self._path(part).exists()

    def failures(self) -> dict[str, str]:
        """The sources that could not be predicted so far, and why."""
        files = [self._broken(part) for part in range(self.parts)]
        return {k: v for path in files if path.exists() for k, v in read_json(path, "").items()}

    def predict_parts(
        self, parts: Sequence[int], workers: int = 0
    ) -> Iterator[tuple[str, str | None]]:
        """Write parts; gives each source's name when it is done, and why it failed, if it did."""
        sources = [self.sources[name] for part in parts for name in self.names_of(part)]
        outcomes = self.predictor.outcomes(sources, self.batch_size, workers)
        for part in parts:
            entries, failures = [], {}
            for name, (_, outcome) in zip(self.names_of(part), outcomes, strict=False):
                if isinstance(outcome, Prediction):
                    entries.append(self._entry(name, outcome))
                else:
                    failures[name] = str(outcome)
                yield name, failures.get(name)
            if failures:
                write_json(self._broken(part), failures)
            write_json(self._path(part), entries)
            if not failures:
                self._broken(part).unlink(missing_ok=True)

    def read_parts(self) -> Iterator[dict[str, Any]]:
        """What all parts say of their sources, in order.

        Raises:
            CdlError, FileNotFoundError: if one is damaged or missing.
        """
        for part in range(self.parts):
            content = read_json(self._path(part), f"{self.output} is not complete")
            if not isinstance(content, list):
                raise CdlError(f"{self._path(part)} is damaged: remove it, and predict again")
            yield from content

    def _path(self, part: int) -> Path:
        return self.output / "parts" / f"{part:05d}.json"

    def _broken(self, part: int) -> Path:
        return self.output / "parts" / f"{part:05d}.failures.json"

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
        place = PurePosixPath(folder, name).with_suffix(".png")
        write_png(self.output / place, pixels)
        return place.as_posix()


def _state_of(source: ArchiveSource) -> str:
    """What changes with a source: where it is, its size and date."""
    if isinstance(source, StoredLatent):
        return str(source)
    state = (source.archive if isinstance(source, TarMember) else source).stat()
    return f"{source} {state.st_size} {state.st_mtime_ns}"
