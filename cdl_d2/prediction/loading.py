"""Where a model to predict with comes from: a zoo, a training's folder, a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cdl_d2 import model_zoo
from cdl_d2.backend import Backend, Config, Transform
from cdl_d2.device import usable_device
from cdl_d2.errors import CdlError
from cdl_d2.files import CONFIG_FILE, WEIGHTS_FILE
from cdl_d2.model_zoo.backends import backend_of_checkpoint, get_backend
from cdl_d2.model_zoo.card import Card
from cdl_d2.model_zoo.hub import CARD_FILE, read_model
from cdl_d2.prediction.models import PredictionModel
from cdl_d2.prediction.tasks import TASKS

if TYPE_CHECKING:
    from torch import nn


def load_model(
    name_or_path: str | Path, device: str | None = None, class_names: Sequence[str] | None = None
) -> PredictionModel:
    """A model of the zoo, or one that was trained.

    Args:
        name_or_path: a name of `cdl zoo list`; the output folder of a training, or of
            save_pretrained; or a checkpoint.
        device: default a GPU if there is one.
        class_names: instead of those that the model says.

    Raises:
        CdlError, FileNotFoundError: if there is no such model, or it cannot be loaded; for another
            number of names.
        MissingPackageError: if it is Detectron2's, and that is not installed.
    """
    path, device = Path(name_or_path), usable_device(device)
    checkpoint = path / WEIGHTS_FILE if path.is_dir() else path
    if (path / CARD_FILE).is_file():
        return _named(load_card(read_model(path), device), class_names)
    if _is_name(path, checkpoint):
        model = load_card(model_zoo.card(str(name_or_path)), device)
    else:
        backend = backend_of_checkpoint(checkpoint)
        model = _prediction_model(backend, *backend.load(checkpoint, device))
    return _named(model, class_names)


def _is_name(path: Path, checkpoint: Path) -> bool:
    """Return whether a name is one of the zoo, though a folder of no model may have it as well,
    such as one of predictions."""
    if path.is_dir() and not checkpoint.exists() and not (path / CONFIG_FILE).exists():
        return str(path) in model_zoo.names()
    return not path.exists() and path.suffix != ".pth"


def _named(model: PredictionModel, class_names: Sequence[str] | None) -> PredictionModel:
    if class_names is None:
        return model
    if len(class_names) != len(model.class_names):
        raise CdlError(
            f"{len(class_names)} class names for a model of {len(model.class_names)} classes"
        )
    return replace(model, class_names=tuple(class_names))


def load_card(card: Card, device: str | None = None) -> PredictionModel:
    """A model of the zoo.

    Raises:
        CdlError, FileNotFoundError: if its weights cannot be had or loaded.
        MissingPackageError: if the package of its backend is not installed.
    """
    backend = get_backend(card.backend, f"the model {card.name}")
    network, config = model_zoo.load(card, usable_device(device))
    model = _prediction_model(backend, network, config, backend.evaluation_transform(config))
    return replace(model, class_names=tuple(card.classes), card=card)


def _prediction_model(
    backend: Backend, network: nn.Module, config: Config, resize: Transform
) -> PredictionModel:
    task, names = TASKS[backend.task(config)], backend.class_names(config)
    coded_input = backend.coded_input(network, config)
    return PredictionModel(backend, network, task, names, coded_input, resize, config)
