"""Predictions of an archive on a Ray cluster: a task per part, all writing to one shared folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from typing import Any

from cdl_d2.prediction.archive import ArchivePrediction
from cdl_d2.prediction.predictor import Predictor
from cdl_d2.ray_actors import map_on_ray


def predict_parts_with_ray(
    model: tuple[Any, ...], archive: ArchivePrediction, parts: Iterable[int], workers: int
) -> Iterator[tuple[str, str | None]]:
    """Predict parts of an archive with `ArchivePrediction.predict_parts` on a Ray cluster.

    Args:
        model: arguments of Predictor.load; paths in them, and those of the archive, must be
            reachable from every machine.
        archive: prediction of the archive.
        parts: numbers of the parts.
        workers: actors of one core each, or of one core and one GPU if the model is on a GPU.

    Yields:
        for each source, its name and error.

    Raises:
        MissingPackageError: if Ray is not installed.
    """
    names = [field.name for field in fields(archive) if field.name != "predictor"]
    arguments = {name: getattr(archive, name) for name in names}
    arguments["output"] = archive.output.absolute()
    gpus = int(archive.predictor.model.device.type == "cuda")
    for outcomes in map_on_ray(_part_predictor, (model, arguments), parts, workers, gpus):
        yield from outcomes


def _part_predictor(
    model: tuple[Any, ...], arguments: dict[str, Any]
) -> Callable[[int], list[tuple[str, str | None]]]:
    archive = ArchivePrediction(Predictor.load(*model), **arguments)
    return lambda part: list(archive.predict_parts([part]))
