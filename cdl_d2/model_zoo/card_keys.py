"""The keys of a card, and what their values may be."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from cdl_d2.download import is_safe_url
from cdl_d2.errors import CdlError
from cdl_d2.model_zoo.backends import BACKENDS

TASKS = ("detection", "segmentation", "classification", "multitask")
PACKAGED = "package:"  # before the name of a file of weights that comes with the package
BESIDE = "beside:"  # before that of one in the folder of the card
LARGEST = 2**63 - 1  # of a whole number


@dataclass(frozen=True)
class Kind:
    """Values of a key: in words, and as a test."""

    expected: str
    fits: Callable[[Any], bool]


def check(
    content: Any,
    kinds: dict[str, Kind],
    path: Path,
    prefix: str = "",
    optional: Collection[str] = (),
) -> None:
    """Raise CdlError unless a mapping has these keys, with values of their kinds.

    Args:
        path: the card's file.
        prefix: of keys, in messages.
        optional: keys that may be absent.
    """
    if not isinstance(content, dict):
        keys = f"a mapping with the keys {', '.join(kinds)}"
        raise wrong(path, prefix.rstrip(".") or "the content", content, keys)
    for key in content:
        if key not in kinds:
            near = get_close_matches(str(key), kinds) or list(kinds)
            raise CdlError(f"card {path}: unknown key {prefix}{key}; expected {', '.join(near)}")
    for key, kind in kinds.items():
        if key not in content:
            if key in optional:
                continue
            raise CdlError(f"card {path}: {prefix}{key} is missing; expected {kind.expected}")
        if not kind.fits(content[key]):
            raise wrong(path, prefix + key, content[key], kind.expected)


def wrong(path: Path, key: str, value: Any, expected: str) -> CdlError:
    """The error of a key's value."""
    return CdlError(f"card {path}: {key} is {repr(value)[:80]}; expected {expected}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_count(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= LARGEST


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= sys.float_info.max  # not so for NaN, and for an integer no float


def _matches(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _is_place(value: Any) -> bool:
    inside = _matches(rf"({PACKAGED}|{BESIDE})[\w][\w.-]{{,200}}\.safetensors")
    return value is None or inside(value) or (isinstance(value, str) and is_safe_url(value))


def _are_overrides(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) % 2 == 0
        and all(isinstance(k, str) for k in value[::2])
    )


_TEXT = Kind("some text", _is_text)
CARD = {
    "name": Kind("lower-case letters, digits, dots and dashes", _matches(r"[a-z0-9][a-z0-9._-]*")),
    "task": Kind(f"one of {', '.join(TASKS)}", lambda value: value in TASKS),
    "backend": Kind(f"one of {', '.join(BACKENDS)}", lambda v: v in tuple(BACKENDS)),
    "config": Kind("a config's name, or a mapping", lambda v: _is_text(v) or isinstance(v, dict)),
    "overrides": Kind("a list KEY, VALUE, ...", _are_overrides),
    "classes": Kind(
        "a list of names", lambda v: isinstance(v, list) and bool(v) and all(map(_is_text, v))
    ),
    "codec": Kind("a mapping, or null", lambda v: v is None or isinstance(v, dict)),
    "data": Kind("a mapping", lambda v: isinstance(v, dict)),
    "command": Kind("text", lambda v: isinstance(v, str)),
    "metrics": Kind(
        "numbers by name",
        lambda v: (
            isinstance(v, dict) and all(map(_is_text, v)) and all(map(_is_number, v.values()))
        ),
    ),
    "seed": Kind("a number from 0 on, or null", lambda v: v is None or _is_count(v, 0)),
    "date": Kind("a date such as 2026-11-24", lambda v: type(v) is date),
    "weights": Kind("a mapping", lambda v: isinstance(v, dict)),
}
PARTS: dict[str, dict[str, Kind]] = {
    "codec": {
        "name": _TEXT,
        "quality": Kind("a number from 0 on", lambda v: _is_count(v, 0)),
        "metric": _TEXT,
        "weights": Kind(
            "a fingerprint of 16 hexadecimal digits, in quotes", _matches("[0-9a-f]{16}")
        ),
    },
    "data": {
        "name": _TEXT,
        "licence": _TEXT,
        "images": Kind("a number from 1 on, or null", lambda v: v is None or _is_count(v)),
    },
    "weights": {
        "url": Kind(
            f"https://..., {PACKAGED}FILE.safetensors, {BESIDE}FILE.safetensors, or null", _is_place
        ),
        "bytes": Kind("a number from 1 on", _is_count),
        "sha256": Kind("64 hexadecimal digits, in quotes", _matches("[0-9a-f]{64}")),
    },
}
