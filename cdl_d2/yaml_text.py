"""YAML that others wrote: read without objects, and no larger than it looks."""

from __future__ import annotations

import math
from typing import Any

import yaml

from cdl_d2.errors import CdlError

MOST_NODES = 100_000  # of a text with all its aliases written out; a whole config has 1,000


def compose_yaml(text: str | bytes) -> yaml.Node | None:
    """The nodes of a YAML text, what its outermost mapping merges (`<<`) among the others; None if
    it is empty.

    Raises:
        CdlError: if it is no YAML, nests too deeply, holds itself, or its aliases stand for so much
            that it would fill the memory.
    """
    loader, node = _composed(text)
    if isinstance(node, yaml.MappingNode):
        try:
            loader.flatten_mapping(node)
        except yaml.YAMLError as error:
            raise _unreadable(error) from error
    return node


def read_yaml(text: str | bytes) -> Any:
    """The plain values of a YAML text.

    Raises:
        CdlError: as compose_yaml; or for tags that make objects.
    """
    loader, node = _composed(text)
    try:
        return None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise _unreadable(error) from error


def _composed(text: str | bytes) -> tuple[yaml.SafeLoader, yaml.Node | None]:
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        nodes = 0 if node is None else _count(node, {})
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _unreadable(error) from error
    if nodes > MOST_NODES:
        raise CdlError(
            f"with its aliases written out it has more than {MOST_NODES} values, or it holds itself"
        )
    return loader, node


def _count(node: yaml.Node, known: dict[int, float]) -> float:
    """How many nodes one is with all aliases written out."""
    if id(node) not in known:
        known[id(node)] = math.inf  # what holds itself never ends
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        pairs = [n for part in parts for n in (part if isinstance(part, tuple) else (part,))]
        known[id(node)] = 1 + sum(_count(part, known) for part in pairs)
    return known[id(node)]


def _unreadable(error: Exception) -> CdlError:
    return CdlError(f"it is no YAML that can be read: {' '.join(str(error).split())[:300]}")
