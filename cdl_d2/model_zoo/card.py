"""A card: identity, origin and metrics of a trained model, and the location of its weights."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import date
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, ConfigDict, Field, Strict, TypeAdapter, ValidationError

from cdl_d2.download import is_safe_url
from cdl_d2.errors import CdlError
from cdl_d2.files import check_regular_file
from cdl_d2.model_zoo.backends import BACKENDS
from cdl_d2.tasks import TASKS
from cdl_d2.yaml_text import read_yaml

PACKAGED = "package:"  # before the name of a file of weights that comes with the package
BESIDE = "beside:"  # before that of one in the folder of the card
WEIGHTS_URL = re.compile(rf"({PACKAGED}|{BESIDE})\w[\w.-]{{,200}}\.safetensors")
MAX_INTEGER = 2**63 - 1


def _check_url(url: str) -> str:
    if not WEIGHTS_URL.fullmatch(url) and not is_safe_url(url):
        raise ValueError(
            f"expected https://..., {PACKAGED}FILE.safetensors, {BESIDE}FILE.safetensors, or null"
        )
    return url


def _check_task(name: str) -> str:
    if name not in TASKS:
        raise ValueError(f"expected one of {', '.join(TASKS)}")
    return name


def _check_pairs(overrides: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(overrides) % 2 or not all(isinstance(key, str) for key in overrides[::2]):
        raise ValueError("expected a list KEY, VALUE, ...")
    return overrides


Text = Annotated[str, Strict(), Field(pattern=r"\S")]
Count = Annotated[int, Strict(), Field(ge=1, le=MAX_INTEGER)]
Number = Annotated[int, Strict(), Field(ge=0, le=MAX_INTEGER)]


@dataclass(frozen=True)
class CardCodec:
    """Codec whose latents a model reads; `weights` is the fingerprint of the codec's weights."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    name: Text
    quality: Number
    metric: Text
    weights: Annotated[str, Strict(), Field(pattern=r"^[0-9a-f]{16}$")]


@dataclass(frozen=True)
class CardData:
    """Training data of a model; `images` counts the training images, None if unknown."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    name: Text
    licence: Text
    images: Count | None


@dataclass(frozen=True)
class CardWeights:
    """A file of weights.

    Attributes:
        url: https://...; `package:FILE` in the package; `beside:FILE` in the card's folder; None
            for a file that is on this machine only.
        bytes: size of the file.
        sha256: of its content, in hexadecimal digits.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    url: Annotated[str, Strict(), AfterValidator(_check_url)] | None
    bytes: Count
    sha256: Annotated[str, Strict(), Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Card:
    """A trained model of the zoo.

    Attributes:
        name: lower-case letters, digits, dots and dashes.
        task: one of cdl_d2.tasks.TASKS.
        backend: `detectron2` or `torchvision`; `engine` in cards written before.
        config: for Detectron2 the name of a config of this package; for torchvision the values of a
            cdl_d2.tv.DetectorConfig.
        overrides: KEY, VALUE, ... changes of the config; for Detectron2 only.
        classes: K names, in the order of the model's outputs.
        codec: None for an RGB model.
        data: of the training.
        command: that trained the model.
        metrics: by name, as measured.
        seed: of the training, None if unknown.
        date: of the training.
        weights: the result of the training.
        path: the card's file.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    name: Annotated[str, Strict(), Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    task: Annotated[str, Strict(), AfterValidator(_check_task)]
    backend: Literal[tuple(BACKENDS)]
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
        """Return the text that parse_card reads."""
        values = asdict(self) | {"classes": list(self.classes), "overrides": list(self.overrides)}
        names = [f.name for f in fields(self) if f.name != "path"]
        content = {name: values[name] for name in names if name != "overrides" or self.overrides}
        options = {"default_flow_style": None, "allow_unicode": True, "width": 100}
        return yaml.dump(content, Dumper=_Dumper, sort_keys=False, **options)


def read_card(path: Path) -> Card:
    """Read the card in a YAML file; raises CdlError as parse_card."""
    check_regular_file(path)
    return parse_card(path.read_bytes(), path)


def parse_card(text: str | bytes, path: Path) -> Card:
    """Parse a card from YAML.

    Args:
        path: the file that it is in, or will be.

    Raises:
        CdlError: names the file, the key and its value, if a key is unknown, missing, or has a
            value of another kind; or if the text is no YAML.
    """
    try:
        content = read_yaml(text)
    except CdlError as error:
        raise CdlError(f"card {path}: {error}") from error
    if isinstance(content, dict) and "backend" not in content and "engine" in content:
        content["backend"] = content.pop("engine")
    if isinstance(content, dict) and "path" in content:
        raise CdlError(f"card {path}: unknown key path")
    try:
        card = _ADAPTER.validate_python(content)
    except ValidationError as error:
        raise CdlError(f"card {path}: {_describe(error)}") from error
    _check_backend(card, path)
    return replace(card, path=path)


def _describe(error: ValidationError) -> str:
    """Return the first error in one line."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"])) or "the content"
    if first["type"] == "unexpected_keyword_argument":
        return f"unknown key {key}"
    if first["type"] == "missing":
        return f"{key} is missing"
    return f"{key} is {first['input']!r:.80}: {first['msg'].removeprefix('Value error, ')}"


def _check_backend(card: Card, path: Path) -> None:
    """Raise CdlError unless backend, config, overrides and task go together."""
    entry, name = BACKENDS[card.backend], PurePosixPath(str(card.config))
    is_name = isinstance(card.config, str) and not name.is_absolute() and ".." not in name.parts
    checks = {
        "config": (entry.config, is_name if entry.config_type is str else card.config),
        "overrides": ("none", entry.config_type is str or not card.overrides),
        "task": (", ".join(entry.tasks), not entry.tasks or card.task in entry.tasks),
    }
    for key, (expected, holds) in checks.items():
        if not holds or not isinstance(card.config, entry.config_type):
            raise CdlError(
                f"card {path}: {key} is {getattr(card, key)!r:.80}; expected {expected}, for "
                f"backend {card.backend}"
            )


class _Dumper(yaml.SafeDumper):
    """Dumper that writes short lists and mappings in a line, and texts of several lines as is."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
_ADAPTER = TypeAdapter(Card)
