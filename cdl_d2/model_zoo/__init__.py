"""Trained models and configs by name, as `detectron2.model_zoo` has them.

A name is that of a card, such as `nuclei-bridge` (`cdl zoo list` shows all), or of a config that
comes with the package, such as `detection/latent_mask_rcnn_R50_FPN.yaml`. Detectron2 itself is
needed for its own models only.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdl_d2.errors import CdlError
from cdl_d2.model_zoo.card import Card
from cdl_d2.model_zoo.catalog import find_card, local_weights, place_of, read_cards
from cdl_d2.packaged import CONFIGS, matching_configs, packaged_configs

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from torch import nn

    from cdl_d2.tv import DetectorConfig

__all__ = [
    "Card",
    "card",
    "get",
    "get_checkpoint_url",
    "get_config",
    "get_config_file",
    "names",
    "weights_file",
]


def names() -> list[str]:
    """The names of the trained models, of the package and in `$CDL_HOME/cards`; a card that cannot
    be used is left out, and `cdl zoo list` says why."""
    return list(read_cards()[0])


def card(name: str) -> Card:
    """What is known of a trained model.

    Raises:
        CdlError: if there is no such model, with names that are near; if its card cannot be used.
    """
    return find_card(name)


def weights_file(name: str | Card) -> Path:
    """The file of a trained model's weights on this machine; downloads what is not here yet.

    Its size and SHA-256 are checked every time.

    Raises:
        CdlError: as card; if the file is damaged or was replaced.
        FileNotFoundError: if it is not here and cannot be downloaded.
    """
    return local_weights(name if isinstance(name, Card) else find_card(name))


def get_checkpoint_url(name: str) -> str:
    """The address of a trained model's weights; or their path, of those that lie on this machine.

    Raises:
        CdlError: as card.
    """
    found = find_card(name)
    url = found.weights.url or ""
    return url if url.startswith("http") else str(place_of(found))


def get_config_file(name: str) -> str:
    """The path of a config that comes with the package.

    Args:
        name: relative to the folder of configs, such as `detection/latent_mask_rcnn_R50_FPN.yaml`;
            or a trained model's, for the config that it was made from.

    Raises:
        CdlError: if there is no such config; if the model is of torchvision, which has none.
    """
    found = _as_card(name)
    return _config_file_of(found) if found else str(CONFIGS / matching_configs(name)[0])


def get_config(name: str | Card, trained: bool = False) -> CfgNode | DetectorConfig:
    """The config of a trained model, with its changes, or one that comes with the package.

    Args:
        trained: set MODEL.WEIGHTS to the file of the model's weights on this machine.

    Returns:
        Detectron2's config; of a model of torchvision a DetectorConfig, which has no weights in it.

    Raises:
        CdlError: as get_config_file; if weights are asked for of a config that has none.
        FileNotFoundError: as weights_file.
    """
    found = _as_card(name)
    if found is not None and found.engine == "torchvision":
        return _detector_config(found)
    path = _config_file_of(found) if found else get_config_file(name)
    overrides = [*found.overrides, "MODEL.CLASS_NAMES", [*found.classes]] if found else []
    if trained:
        overrides += ["MODEL.WEIGHTS", _trained_weights(name, found)]
    from cdl_d2.d2.config import without_initialization
    from cdl_d2.d2.config_files import read_config

    try:
        cfg = read_config(path, overrides)
    except CdlError as error:
        raise CdlError(f"card {found.path}: {error}" if found else str(error)) from error
    if found:
        _check_classes(cfg, found)
    return without_initialization(cfg) if trained else cfg


def get(name: str | Card, trained: bool = True, device: str | None = None) -> nn.Module:
    """A model, in eval mode with its weights, or new ones of the same kind.

    Args:
        name: of a trained model, or its card; without weights, also of a config.
        device: `cpu` or `cuda`; default a GPU if there is one.

    Raises:
        CdlError: as get_config; if weights, config and codec do not belong together.
        FileNotFoundError: as weights_file.
    """
    from cdl_d2.device import usable_device

    found, device = _as_card(name), usable_device(device)
    config = get_config(found or name, trained)
    if found is not None and found.engine == "torchvision":
        from cdl_d2.codec.io.weights_file import load_state_dict
        from cdl_d2.tv.checkpoint import load_all
        from cdl_d2.tv.detector_config import build_detector

        model = build_detector(config).to(device)
        if trained:
            path = _trained_weights(name, found)
            load_all(model, load_state_dict(path), path)
            model.eval()
    else:
        from cdl_d2.d2.applications.zoo_models import build_zoo_model

        config.MODEL.DEVICE = device
        model = build_zoo_model(config, trained)
    if found is not None and trained:
        _check_codec(model, found)
    return model


def _as_card(name: str | Card) -> Card | None:
    """A card; or None for a config of the package. Raises CdlError for neither."""
    if isinstance(name, Card):
        return name
    return None if len(matching_configs(name)) == 1 else find_card(name, packaged_configs())


def _config_file_of(found: Card) -> str:
    if not isinstance(found.config, str):
        raise CdlError(
            f"{found.name} is a model of torchvision, which has no config file: get_config"
        )
    names = matching_configs(found.config)  # and no other file of this machine
    if len(names) != 1:
        raise CdlError(f"card {found.path}: no config {found.config!r} comes with this cdl_d2")
    return str(CONFIGS / names[0])


def _trained_weights(name: str, found: Card | None) -> str:
    if found is None:
        raise CdlError(f"{name} is a config, which has no trained weights: {_known()}")
    return str(local_weights(found))


def _known() -> str:
    return f"there are weights of {', '.join(names()) or 'nothing'}"


def _detector_config(found: Card) -> DetectorConfig:
    from cdl_d2.tv.detector_config import DetectorConfig

    try:
        config = DetectorConfig.from_dict(found.config)
    except (AttributeError, KeyError, TypeError) as error:
        raise CdlError(
            f"card {found.path}: config is not that of a DetectorConfig: {error!r}"
        ) from error
    if config.classes != found.classes:
        raise CdlError(f"card {found.path}: classes and config.classes differ")
    return config


def _check_classes(cfg: CfgNode, found: Card) -> None:
    """Raise CdlError unless a card names as many classes as its network tells apart."""
    from cdl_d2.d2.engine.tasks import class_count

    if class_count(cfg) != len(found.classes):
        raise CdlError(
            f"card {found.path}: classes are {len(found.classes)} names; expected "
            f"{class_count(cfg)}, for the outputs of its network"
        )


def _check_codec(model: Any, found: Card) -> None:
    """Raise CdlError unless a model reads the codec that its card names."""
    codec = getattr(getattr(model, "coded_input", None), "codec", None)
    theirs = codec and codec.identity.weights
    ours = found.codec and found.codec.weights
    if theirs != ours:
        raise CdlError(
            f"card {found.path}: the codec's weights are {ours}, but the model reads {theirs}"
        )
