"""Where a model to predict with comes from: a zoo, a training's folder, a checkpoint."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cdl_d2 import model_zoo
from cdl_d2.data import Variant
from cdl_d2.device import usable_device
from cdl_d2.errors import CdlError, MissingPackageError
from cdl_d2.files import CONFIG_FILE, WEIGHTS_FILE
from cdl_d2.model_zoo.card import Card
from cdl_d2.model_zoo.hub import CARD_FILE, read_model
from cdl_d2.prediction.models import PredictionModel
from cdl_d2.prediction.tasks import TASKS

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from torch import nn

    from cdl_d2.tv import CompressedMaskRCNN, DetectorConfig


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
    elif (checkpoint.parent / CONFIG_FILE).is_file():
        model = _of_detectron2(checkpoint, device)
    else:
        model = _of_torchvision(checkpoint, device)
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
        MissingPackageError: if it is Detectron2's, and that is not installed.
    """
    device = usable_device(device)
    if card.engine == "detectron2":
        _need_detectron2(f"the model {card.name}")
    network = model_zoo.get(card, device=device)
    config = model_zoo.get_config(card)
    if card.engine == "detectron2":
        model = _detectron2_model(network, config)
    else:
        model = _torchvision_model(network, config, config.architecture.evaluation_sizes)
    return replace(model, class_names=tuple(card.classes), card=card)


def _of_detectron2(checkpoint: Path, device: str) -> PredictionModel:
    _need_detectron2(str(checkpoint))
    from cdl_d2.d2.applications.trained import build_trained
    from cdl_d2.d2.config_files import read_config

    cfg = read_config(checkpoint.parent / CONFIG_FILE)
    return _detectron2_model(build_trained(cfg, checkpoint, device), cfg)


def _detectron2_model(network: nn.Module, cfg: CfgNode) -> PredictionModel:
    from cdl_d2.d2.applications.prediction import class_names_of, coded_input_of, resize_of
    from cdl_d2.d2.engine.tasks import task_of

    task, names = TASKS[task_of(cfg).name], class_names_of(cfg)
    shown = coded_input_of(network, cfg)
    return PredictionModel(network, task, names, shown, resize_of(cfg), cfg)


def _of_torchvision(checkpoint: Path, device: str) -> PredictionModel:
    from cdl_d2.tv.checkpoint import load_detector, read_checkpoint

    try:
        trained = read_checkpoint(checkpoint).get("training", {})
    except CdlError as error:
        raise CdlError(
            f"{error}; a model of Detectron2 needs {checkpoint.parent / 'config.yaml'}, such as "
            "cfg.dump() gives"
        ) from error
    network, config = load_detector(checkpoint)
    short_edge, longest = config.architecture.evaluation_sizes
    sizes = trained.get("short_edge_val", short_edge), trained.get("max_size", longest)
    return _torchvision_model(network.to(device), config, sizes)


def _torchvision_model(
    network: CompressedMaskRCNN, config: DetectorConfig, sizes: tuple[int, int]
) -> PredictionModel:
    task, names = TASKS["detection"], tuple(config.classes)
    resize = Variant(*sizes).apply
    return PredictionModel(network, task, names, network.coded_input, resize, config)


def _need_detectron2(what: str) -> None:
    if importlib.util.find_spec("detectron2") is None:
        raise MissingPackageError(f"{what} is Detectron2's: install it as the README says")
