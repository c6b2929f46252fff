"""Trained models and configs by name, as `detectron2.model_zoo` has them.

A name is that of a card, such as `nuclei-bridge` (`cdl zoo list` shows all), or of a config that
comes with the package, such as `detection/latent_mask_rcnn_R50_FPN.yaml`. Detectron2 itself is
needed for its own models only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdl_d2.errors import CdlError
from cdl_d2.model_zoo.backends import get_backend
from cdl_d2.model_zoo.card import Card
from cdl_d2.model_zoo.catalog import find_card, local_weights, read_cards, weights_path
from cdl_d2.packaged import CONFIGS, matching_configs, packaged_configs

if TYPE_CHECKING:
    from torch import nn

    from cdl_d2.backend import Config

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
    return url if url.startswith("http") else str(weights_path(found))


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


def get_config(name: str | Card, trained: bool = False, overrides: Sequence[Any] = ()) -> Config:
    """The config of a trained model, with its changes, or one that comes with the package.

    Args:
        trained: set MODEL.WEIGHTS to the file of the model's weights on this machine.
        overrides: KEY, VALUE, ... changes of a Detectron2 model's config.

    Returns:
        Detectron2's config; of a model of torchvision a DetectorConfig, which has no weights in it.

    Raises:
        CdlError: as get_config_file; if weights are asked for of a config that has none.
        FileNotFoundError: as weights_file.
    """
    found = _as_card(name)
    if found is None:
        if trained:
            raise CdlError(f"{name} is a config, which has no trained weights: {_known()}")
        from cdl_d2.d2.config_files import read_config

        return read_config(get_config_file(name), overrides)
    backend = get_backend(found.backend, f"the model {found.name}")
    try:
        changes = [*found.overrides, *overrides]
        config = backend.read_card_config(found.config, changes, found.classes)
    except CdlError as error:
        raise CdlError(f"card {found.path}: {error}") from error
    return backend.with_weights(config, local_weights(found)) if trained else config


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
    if found is not None and trained:
        return load(found, device)[0]
    backend = get_backend(found.backend if found else "detectron2", str(name))
    return backend.build(get_config(found or name, trained), device)


def load(card: Card, device: str, overrides: Sequence[Any] = ()) -> tuple[nn.Module, Config]:
    """Return a trained model, in eval mode, and its config; raises as `get`."""
    backend = get_backend(card.backend, f"the model {card.name}")
    config = get_config(card, overrides=overrides)
    model = backend.build(config, device, local_weights(card))
    _check_codec(model, card)
    return model, config


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


def _known() -> str:
    return f"there are weights of {', '.join(names()) or 'nothing'}"


def _check_codec(model: Any, found: Card) -> None:
    """Raise CdlError unless a model reads the codec that its card names."""
    codec = getattr(getattr(model, "coded_input", None), "codec", None)
    theirs = codec and codec.identity.weights
    ours = found.codec and found.codec.weights
    if theirs != ours:
        raise CdlError(
            f"card {found.path}: the codec's weights are {ours}, but the model reads {theirs}"
        )
