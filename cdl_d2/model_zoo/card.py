"""A card: what a trained model is, how it was made, how good it is, and where its weights are."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from cdl_d2.errors import CdlError
from cdl_d2.files import check_file
from cdl_d2.model_zoo.backends import BACKENDS
from cdl_d2.model_zoo.card_keys import CARD, PARTS, check, wrong
from cdl_d2.yaml_text import read_yaml


@dataclass(frozen=True)
class CardCodec:
    """The codec that a model reads; `weights` is the fingerprint of the codec's weights."""

    name: str
    quality: int
    metric: str
    weights: str


@dataclass(frozen=True)
class CardData:
    """What a model was trained on; `images` counts those of the training, None if unknown."""

    name: str
    licence: str
    images: int | None


@dataclass(frozen=True)
class CardWeights:
    """A file of weights.

    Attributes:
        url: https://...; or `package:FILE` for one inside the package; or None for one that is on
            this machine only.
        bytes: its size.
        sha256: of its content, in hexadecimal digits.
    """

    url: str | None
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Card:
    """A trained model of the zoo.

    Attributes:
        name: lower-case letters, digits, dots and dashes.
        task: one of card_keys.TASKS.
        backend: `detectron2` or `torchvision`; `engine` in cards written before.
        config: for Detectron2 the name of a config of this package; for torchvision the values of a
            cdl_d2.tv.DetectorConfig.
        overrides: KEY, VALUE, ... changes of the config; for detectron2 only.
        classes: names, in the order of the model's outputs.
        codec: None for a model of pixels.
        data, weights: what it was trained on; what came out.
        command: that made it.
        metrics: by name, as they were measured.
        seed: of the training, None if unknown.
        date: of the training.
        path: the card's file.
    """

    name: str
    task: str
    backend: str
    config: str | dict[str, Any]
    classes: tuple[str, ...]
    codec: CardCodec | None
    data: CardData
    command: str
    metrics: dict[str, float]
    seed: int | None
    date: date
    weights: CardWeights
    overrides: tuple[Any, ...] = ()
    path: Path = field(default=Path(), compare=False)

    def to_yaml(self) -> str:
        """What read_card reads."""
        values = asdict(self)
        values |= {"classes": list(self.classes), "overrides": list(self.overrides)}
        order = [key for key in CARD if key != "overrides" or self.overrides]
        content = {key: values[key] for key in order}
        return yaml.dump(
            content,
            Dumper=_Dumper,
            sort_keys=False,
            default_flow_style=None,
            allow_unicode=True,
            width=100,
        )


def read_card(path: Path) -> Card:
    """The card in a YAML file.

    Raises:
        CdlError: as parse_card.
    """
    check_file(path)
    return parse_card(path.read_bytes(), path)


def parse_card(text: str | bytes, path: Path) -> Card:
    """A card from YAML.

    Args:
        path: the file that it is in, or will be.

    Raises:
        CdlError: names the file, the key and what is expected, if a key is unknown, missing, or has
            a value of another kind; or if the text is no YAML.
    """
    try:
        content = read_yaml(text)
    except CdlError as error:
        raise CdlError(f"card {path}: {error}") from error
    if isinstance(content, dict) and "backend" not in content and "engine" in content:
        content["backend"] = content.pop("engine")
    check(content, CARD, path, optional=("overrides",))
    parts: dict[str, Any] = {}
    for key, kind in _KINDS.items():
        if content[key] is not None:
            check(content[key], PARTS[key], path, f"{key}.")
            parts[key] = kind(**content[key])
    overrides, classes = tuple(content.get("overrides") or ()), tuple(content["classes"])
    card = Card(**content | parts | {"overrides": overrides, "classes": classes, "path": path})
    _check_backend(card)
    return card


def _check_backend(card: Card) -> None:
    """Raise CdlError unless backend, config, overrides and task go together."""
    entry, where = BACKENDS[card.backend], f"for backend {card.backend}"
    if not isinstance(card.config, entry.config_type):
        raise wrong(card.path, "config", card.config, f"{entry.config}, {where}")
    if isinstance(card.config, str):
        path = PurePosixPath(card.config)
        if path.is_absolute() or ".." in path.parts:
            raise wrong(card.path, "config", card.config, f"{entry.config}, {where}")
    elif card.overrides:
        raise wrong(card.path, "overrides", list(card.overrides), f"none, {where}")
    if entry.tasks and card.task not in entry.tasks:
        raise wrong(card.path, "task", card.task, f"{', '.join(entry.tasks)}, {where}")


_KINDS = {"codec": CardCodec, "data": CardData, "weights": CardWeights}


class _Dumper(yaml.SafeDumper):
    """Short lists and mappings in a line, texts of several lines as they stand."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
