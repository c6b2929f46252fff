"""Trained models and configs by name, with the functions of `detectron2.model_zoo`.

A name is that of a card, such as `nuclei-bridge` (`cdl zoo list` prints all), or of a config of the
package, such as `detection/latent_mask_rcnn_R50_FPN.yaml`. Detectron2 is needed for its own models
only.
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

    from cdl_d2.backend import Backend, Config

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
    """Return the names of the trained models of the package and of `$CDL_HOME/cards`.

    A card that cannot be used is left out; `cdl zoo list` prints its error.
    """
    return list(read_cards()[0])


card = find_card


def weights_file(name: str | Card) -> Path:
    """Return the checked file of a model's weights, downloaded if necessary, as local_weights."""
    return local_weights(name if isinstance(name, Card) else find_card(name))


def get_checkpoint_url(name: str) -> str:
    """Return the URL of a model's weights, or their path if they have none.

    Raises:
        CdlError: if there is no such model.
    """
    card = find_card(name)
    url = card.weights.url or ""
    return url if url.startswith("http") else str(weights_path(card))


def get_config_file(name: str) -> str:
    """Return the path of a packaged config.

    Args:
        name: relative to the folder of configs, such as `detection/latent_mask_rcnn_R50_FPN.yaml`;
            or of a trained model, for the config that it refers to.

    Raises:
        CdlError: if there is no such config, or the model has no config file.
    """
    card = _find_card_unless_config(name)
    if card is None:
        return str(CONFIGS / matching_configs(name)[0])
    if not isinstance(card.config, str):
        raise CdlError(f"{card.name}, a model of {card.backend}, has no config file: get_config")
    matches = matching_configs(card.config)  # and no other file of this machine
    if len(matches) != 1:
        raise CdlError(f"card {card.path}: no config {card.config!r} comes with this cdl_d2")
    return str(CONFIGS / matches[0])


def get_config(name: str | Card, trained: bool = False) -> Config:
    """Return the config of a trained model, with its changes, or a packaged config.

    Args:
        name: name of a trained model or of a config, or a card.
        trained: set MODEL.WEIGHTS to the file of the model's weights on this machine.

    Returns:
        Detectron2's config, or a DetectorConfig, which names no weights.

    Raises:
        CdlError: if there is no such config, or `trained` is set for a config alone.
        FileNotFoundError: if the weights are not on this machine and cannot be downloaded.
    """
    card = _find_card_unless_config(name)
    if card is None:
        if trained:
            available = ", ".join(names()) or "nothing"
            raise CdlError(
                f"{name} is a config, which has no trained weights: there are those of {available}"
            )
        get_backend("detectron2", str(name))
        from cdl_d2.d2.config_files import read_config

        return read_config(get_config_file(name))
    backend, config = _read_config(card)
    return backend.with_weights(config, local_weights(card)) if trained else config


def get(name: str | Card, trained: bool = True, device: str | None = None) -> nn.Module:
    """Return a model, in eval mode with its weights, or with random ones.

    Args:
        name: of a trained model, or its card; without weights, also of a config.
        trained: load the trained weights.
        device: `cpu` or `cuda`; default a GPU if there is one.

    Raises:
        CdlError: if there is no such model, or weights, config and codec do not belong together.
        FileNotFoundError: if the weights are not on this machine and cannot be downloaded.
    """
    from cdl_d2.device import usable_device

    card, device = _find_card_unless_config(name), usable_device(device)
    if card is not None and trained:
        return load(card, device)[1]
    backend = get_backend(card.backend if card else "detectron2", str(name))
    return backend.build(get_config(card or name, trained), device)


def load(
    card: Card, device: str, overrides: Sequence[Any] = ()
) -> tuple[Backend, nn.Module, Config]:
    """Load a trained model.

    Args:
        card: card of the model.
        device: `cpu` or `cuda`.
        overrides: KEY, VALUE, ... changes of a Detectron2 model's config.

    Returns:
        its backend, its network in eval mode, and its config.

    Raises:
        CdlError: if weights, config and codec do not belong together.
        FileNotFoundError: if the weights are not on this machine and cannot be downloaded.
    """
    backend, config = _read_config(card, overrides)
    network = backend.build(config, device, local_weights(card))
    codec = backend.coded_input(network, config).codec
    weights, expected = codec and codec.identity.weights, card.codec and card.codec.weights
    if weights != expected:
        raise CdlError(
            f"card {card.path}: the codec's weights are {expected}, but the model reads {weights}"
        )
    return backend, network, config


def _read_config(card: Card, overrides: Sequence[Any] = ()) -> tuple[Backend, Config]:
    backend = get_backend(card.backend, f"the model {card.name}")
    try:
        overrides = [*card.overrides, *overrides]
        return backend, backend.read_card_config(card.config, overrides, card.classes)
    except CdlError as error:
        raise CdlError(f"card {card.path}: {error}") from error


def _find_card_unless_config(name: str | Card) -> Card | None:
    """Return a card, or None for a packaged config; raise CdlError if the name is of neither."""
    if isinstance(name, Card):
        return name
    return None if len(matching_configs(name)) == 1 else find_card(name, packaged_configs())
