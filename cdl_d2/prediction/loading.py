"""Resolution of MODEL, the one way to name a trained model, and loading."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdl_d2 import model_zoo
from cdl_d2.device import device_of, usable_device, use_channels_last
from cdl_d2.errors import CdlError
from cdl_d2.files import CONFIG_FILE, WEIGHTS_FILE
from cdl_d2.model_zoo.backends import (
    NETWORKS,
    TORCHVISION_ZOO,
    checkpoint_backend,
    config_backend,
    get_backend,
)
from cdl_d2.model_zoo.card import Card
from cdl_d2.model_zoo.catalog import find_card
from cdl_d2.model_zoo.hub import CARD_FILE, read_model
from cdl_d2.prediction.models import PredictionModel
from cdl_d2.prediction.precision import FLOAT32, set_precision
from cdl_d2.prediction.tasks import TASKS

CONFIG = r"\.(?:yaml|yml|py)"


@dataclass(frozen=True)
class ModelSource:
    """Location of a model's config and weights.

    Attributes:
        backend: name of its backend.
        config_file: of a model whose checkpoint does not hold its config.
        weights: file, URL or name; None to find those of the config.
        card: of a model of the zoo, which says all of the above.
    """

    backend: str
    config_file: Path | None = None
    weights: str | None = None
    card: Card | None = None


def find_model(name: str | Path) -> ModelSource:
    """Resolve MODEL: find the config and the weights of a trained model.

    Args:
        name: a name of the zoo; the output folder of a training, or of `save_pretrained`; a
            checkpoint; a config, of a file, of this package or of Detectron2's model zoo;
            CONFIG:WEIGHTS; `torchvision/NAME` or `timm/NAME`, an RGB network by name, perhaps with
            `:WEIGHTS`; or `coco`, torchvision's Mask R-CNN.

    Raises:
        CdlError, FileNotFoundError: if there is no such model.
        MissingPackageError: for a config, if Detectron2 is not installed.
    """
    text, path = str(name), Path(name)
    if not text:
        raise CdlError("the name of the model is empty: give a folder, a file or a name of the zoo")
    if path.is_dir():
        if (path / CARD_FILE).is_file():
            card = read_model(path)
            return ModelSource(card.backend, card=card)
        if (path / CONFIG_FILE).is_file() or (path / WEIGHTS_FILE).is_file():
            return _checkpoint_source(path / WEIGHTS_FILE)
        if text not in model_zoo.names():  # a folder, such as one of predictions, may have a name
            raise FileNotFoundError(
                f"{path} has neither {CONFIG_FILE} nor {WEIGHTS_FILE}: it is no training's folder"
            )
    elif path.is_file() and not re.search(f"{CONFIG}$", text):
        return _checkpoint_source(path)
    elif match := re.fullmatch(f"(.+{CONFIG})(?::(.+))?", text):
        get_backend("detectron2", text)
        from cdl_d2.d2.config_files import find_config

        config_file = find_config(match[1])
        return ModelSource(config_backend(config_file), config_file, match[2])
    elif text.startswith(NETWORKS):
        return ModelSource("pytorch", weights=text)
    elif path.suffix == ".pth":
        raise FileNotFoundError(f"there is no checkpoint {path}")
    elif text == TORCHVISION_ZOO:
        return ModelSource("torchvision", weights=text)
    card = find_card(text)
    return ModelSource(card.backend, card=card)


def find_detectron2_config(name: str | Path) -> tuple[Path, list[Any], str | None]:
    """Resolve MODEL to the config file, its overrides and the weights of a Detectron2 model.

    The config may be a LazyConfig.

    Returns:
        the weights may be None, for a config alone.

    Raises:
        CdlError, FileNotFoundError: as find_model, or if the model is of another backend.
    """
    source = find_model(name)
    if source.backend not in ("detectron2", "lazyconfig"):
        raise CdlError(
            f"{name} is a model of {source.backend}; expected one of Detectron2, which has a "
            f"{CONFIG_FILE} beside its weights, such as cfg.dump() gives"
        )
    if source.card is None:
        return source.config_file, [], source.weights
    card = source.card
    pairs = zip(card.overrides[::2], card.overrides[1::2], strict=True)
    # A teacher of the command line may be a program; that of a card may not.
    overrides = [word for pair in pairs if not pair[0].startswith("MODEL.TEACHER") for word in pair]
    overrides += ["MODEL.CLASS_NAMES", [*card.classes]]
    config_file = Path(model_zoo.get_config_file(card.name))
    return config_file, overrides, str(model_zoo.weights_file(card))


def load_model(
    name: str | Path | Card,
    device: str | None = None,
    class_names: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
    precision: str = FLOAT32,
) -> PredictionModel:
    """Load a trained model.

    Args:
        name: MODEL, as find_model resolves it, or a card.
        device: default a GPU if there is one.
        class_names: K names that replace the model's own.
        overrides: KEY VALUE changes of a Detectron2 model's config.
        precision: `float32` or `bfloat16`, as set_precision takes it.

    Raises:
        CdlError, FileNotFoundError: if there is no such model, or it cannot be loaded; for a wrong
            number of names, or an unknown precision.
        MissingPackageError: if the package of its backend is not installed.
    """
    card = name if isinstance(name, Card) else (source := find_model(name)).card
    if card is not None:
        backend, network, config = model_zoo.load(card, usable_device(device), overrides)
        names, resize = tuple(card.classes), None
    else:
        backend, device = get_backend(source.backend, str(name)), usable_device(device)
        network, config, resize = backend.load(
            source.weights, device, source.config_file, overrides
        )
        names = backend.class_names(config)
    if class_names is not None and len(class_names) != len(names):
        raise CdlError(f"{len(class_names)} class names for a model of {len(names)} classes")
    model = PredictionModel(
        backend,
        network,
        TASKS[backend.task(config)],
        names if class_names is None else tuple(class_names),
        backend.coded_input(network, config),
        resize or backend.evaluation_transform(config),
        config,
        device_of(network),
        card,
        precision,
    )
    use_channels_last(network)
    if precision != FLOAT32:
        set_precision(network, precision)
    return model


def _checkpoint_source(checkpoint: Path) -> ModelSource:
    backend = checkpoint_backend(checkpoint)
    config_file = checkpoint.parent / CONFIG_FILE
    is_beside = config_file.is_file()
    return ModelSource(backend, config_file if is_beside else None, str(checkpoint))
