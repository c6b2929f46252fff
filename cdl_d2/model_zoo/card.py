"""A card: identity, origin and metrics of a trained model, and the location of its weights."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, ConfigDict, Field, Strict, TypeAdapter, ValidationError

from cdl_d2.download import is_safe_url
from cdl_d2.errors import CdlError
from cdl_d2.files import check_regular_file
from cdl_d2.model_zoo.backends import BACKENDS, CARD_BACKENDS
from cdl_d2.tasks import TASKS
from cdl_d2.yaml_text import read_yaml

PACKAGED = "package:"  # before the name of a file of weights that comes with the package
BESIDE = "beside:"  # before that of one in the folder of the card
FILE_URL = re.compile(rf"({PACKAGED}|{BESIDE})\w[\w.-]{{,200}}\.safetensors")


def _check_url(url: str) -> str:
    if FILE_URL.fullmatch(url) or is_safe_url(url):
        return url
    raise ValueError(
        f"expected https://..., {PACKAGED}FILE.safetensors or {BESIDE}FILE.safetensors"
    )


def _check_task(name: str) -> str:  # when a card is read: other packages register tasks
    if name in TASKS:
        return name
    raise ValueError(f"expected one of {', '.join(TASKS)}")


def _check_pairs(overrides: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(overrides) % 2 == 0 and all(isinstance(key, str) for key in overrides[::2]):
        return overrides
    raise ValueError("expected a list KEY, VALUE, ...")


Text = Annotated[str, Strict(), Field(pattern=r"\S")]
Count = Annotated[int, Strict(), Field(ge=1, lt=2**63)]
Number = Annotated[int, Strict(), Field(ge=0, lt=2**63)]


class _Record:
    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class CardCodec(_Record):
    """Codec whose latents a model reads; `weights` is the fingerprint of the codec's weights."""

    name: Text
    quality: Number
    metric: Text
    weights: Annotated[str, Strict(), Field(pattern=r"^[0-9a-f]{16}$")]


@dataclass(frozen=True)
class CardData(_Record):
    """Training data of a model; `images` counts the training images, None if unknown."""

    name: Text
    licence: Text
    images: Count | None


@dataclass(frozen=True)
class CardWeights(_Record):
    """A file of weights; `url` is None for a file that is on this machine only."""

    url: Annotated[str, Strict(), AfterValidator(_check_url)] | None
    bytes: Count
    sha256: Annotated[str, Strict(), Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Card(_Record):
    """A trained model of the zoo.

    Attributes:
        backend: `engine` in cards written before.
        config: for Detectron2 the name of a packaged config; for torchvision the values of a
            cdl_d2.tv.DetectorConfig; for pytorch those of a cdl_d2.conversion NetworkConfig.
        overrides: KEY, VALUE, ... changes of the config; for Detectron2 only.
        classes: K names, in the order of the model's outputs.
        codec: None for an RGB model.
        command: command of the training, as `data`, `seed` and `date` are of the training.
        path: the card's file.
    """

    name: Annotated[str, Strict(), Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    task: Annotated[str, Strict(), AfterValidator(_check_task)]
    backend: Literal[CARD_BACKENDS]
    config: Any
    overrides: Annotated[tuple[Any, ...], AfterValidator(_check_pairs)] = field(
        default=(), kw_only=True
    )
    classes: Annotated[tuple[Text, ...], Field(min_length=1)]
    codec: CardCodec | None
    data: CardData
    command: Annotated[str, Strict()]
    metrics: dict[Text, Annotated[float, Strict(), Field(allow_inf_nan=False)]]
    seed: Number | None
    date: Annotated[date, Strict()]
    weights: CardWeights
    path: Path = field(default=Path(), compare=False)

    def to_yaml(self) -> str:
        """Return the text that read_card reads."""
        values = asdict(self) | {"classes": list(self.classes), "overrides": list(self.overrides)}
        skipped = {"path"} if self.overrides else {"path", "overrides"}
        content = {name: value for name, value in values.items() if name not in skipped}
        options = {"default_flow_style": None, "allow_unicode": True, "width": 100}
        return yaml.dump(content, Dumper=_Dumper, sort_keys=False, **options)


def read_card(path: Path, text: str | None = None) -> Card:
    """Read a card from a YAML file, or from the `text` that is to be written to it.

    Raises:
        CdlError: names the file, the key and its value, if a key is unknown, missing, or has a
            value of another kind; or if the text is no YAML.
    """
    check_regular_file(path)
    try:
        content = read_yaml(path.read_bytes() if text is None else text)
        if isinstance(content, dict) and "backend" not in content and "engine" in content:
            content["backend"] = content.pop("engine")
        if isinstance(content, dict) and "path" in content:
            raise CdlError("unknown key path")
        card = _adapter().validate_python(content)
        _check_backend(card)
    except ValidationError as error:
        raise CdlError(f"card {path}: {_describe(error)}") from error
    except CdlError as error:
        raise CdlError(f"card {path}: {error}") from error
    return replace(card, path=path)


def _describe(error: ValidationError) -> str:
    """Return the first error in one line."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"])) or "the content"
    if first["type"] in ("unexpected_keyword_argument", "missing"):
        return f"{key} is missing" if first["type"] == "missing" else f"unknown key {key}"
    return f"{key} is {first['input']!r:.80}: {first['msg'].removeprefix('Value error, ')}"


def _check_backend(card: Card) -> None:
    """Raise CdlError unless backend, config, overrides and task go together."""
    entry, name = BACKENDS[card.backend], PurePosixPath(str(card.config))
    is_config = isinstance(card.config, entry.config_type)
    if entry.config_type is str:
        is_config = is_config and not name.is_absolute() and ".." not in name.parts
    for key, holds, expected in (
        ("config", is_config, entry.config),
        ("overrides", entry.config_type is str or not card.overrides, "none"),
        ("task", not entry.tasks or card.task in entry.tasks, ", ".join(entry.tasks)),
    ):
        if not holds:
            value = getattr(card, key)
            raise CdlError(f"{key} is {value!r:.80}; expected {expected}, for {card.backend}")


class _Dumper(yaml.SafeDumper):
    """Dumper that writes short lists and mappings in a line, and texts of several lines as is."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


@cache
def _adapter() -> TypeAdapter[Card]:
    """Return the reader of cards, which takes time to build."""
    return TypeAdapter(Card)
