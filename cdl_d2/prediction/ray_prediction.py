"""Predictions of an archive on a Ray cluster: a task a part, all writing to one shared folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch

from cdl_d2.errors import imports_of_extra
from cdl_d2.prediction.archive import ArchivePrediction
from cdl_d2.prediction.predictor import Predictor


@dataclass(frozen=True)
class ModelChoice:
    """A model that can be loaded on another machine: the arguments of Predictor.load."""

    name_or_path: str
    device: str | None = None
    class_names: tuple[str, ...] | None = None

    def load(self) -> Predictor:
        """The model; raises as Predictor.load."""
        return Predictor.load(self.name_or_path, self.device, self.class_names)


class _PartPredictor:
    """Predicts the parts that it is given; an actor that loads the model once."""

    def __init__(self, model: ModelChoice, arguments: dict[str, Any]):
        torch.set_num_threads(1)
        self._archive = ArchivePrediction(model.load(), **arguments)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"done": json.dumps(list(self._archive.predict_parts([int(row["part"])])))}


def predict_parts_with_ray(
    model: ModelChoice, archive: ArchivePrediction, parts: Iterable[int], workers: int
) -> Iterator[tuple[str, str | None]]:
    """As ArchivePrediction.predict_parts, with Ray Data.

    Args:
        model: paths in it, and those of the archive, mean the same on every machine.
        workers: actors; of one core each, or of one GPU where the model is on one.

    Raises:
        MissingPackageError: if Ray is not installed.
    """
    with imports_of_extra("ray"):
        import ray.data
    names = [field.name for field in fields(archive) if field.name != "predictor"]
    arguments = {name: getattr(archive, name) for name in names}
    arguments["output"] = archive.output.absolute()
    on_gpu = archive.predictor.model.device.type == "cuda"
    rows = [{"part": part} for part in parts]
    predicted = ray.data.from_items(rows, override_num_blocks=max(len(rows), 1)).map(
        _PartPredictor,
        fn_constructor_args=(model, arguments),
        concurrency=workers,
        num_cpus=1,
        num_gpus=1 if on_gpu else 0,
    )
    for row in predicted.iter_rows():
        yield from map(tuple, json.loads(row["done"]))
