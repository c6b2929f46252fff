"""YAML from untrusted input: no objects, and a limit on expanded aliases."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from cdl_d2.errors import CdlError

MAX_NODES = 100_000  # with all aliases expanded; a whole config has 1,000


def compose_yaml(text: str | bytes) -> yaml.Node | None:
    """Parse a YAML text to nodes without constructing values; return None if it is empty.

    Raises:
        CdlError: if it is not YAML, is nested too deeply, contains itself, or has more than 100,000
            nodes with its aliases expanded.
    """
    with _yaml_errors():
        return _compose(yaml.SafeLoader(text))


def read_yaml(text: str | bytes, loader_type: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Return the plain values of a YAML text, with the tags that the loader constructs.

    Raises:
        CdlError: as compose_yaml, and for tags of objects.
    """
    with _yaml_errors():
        loader = loader_type(text)
        node = _compose(loader)
        return None if node is None else loader.construct_document(node)


def is_lazy_config(path: Path) -> bool:
    """Return True for a LazyConfig of Detectron2: a Python file, or a saved one.

    Saved ones have an outermost key `model`; those of other configs are in capital letters.
    """
    if path.suffix == ".py":
        return True
    try:
        node = compose_yaml(path.read_bytes())
    except CdlError:
        return False
    return isinstance(node, yaml.MappingNode) and any(k.value == "model" for k, _ in node.value)


@contextmanager
def _yaml_errors() -> Iterator[None]:
    try:
        yield
    except CdlError:
        raise
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise CdlError(f"it is not readable YAML: {' '.join(str(error).split())[:300]}") from error


def _compose(loader: yaml.SafeLoader) -> yaml.Node | None:
    node = loader.get_single_node()
    if node is not None and _count_expanded(node, {}) > MAX_NODES:
        raise CdlError(f"it contains itself, or more than {MAX_NODES} values with expanded aliases")
    return node


def _count_expanded(node: yaml.Node, counts: dict[int, float]) -> float:
    """Count the nodes under a node, itself included, with all aliases expanded."""
    if id(node) not in counts:
        counts[id(node)] = math.inf  # a node that contains itself never ends
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        children = [n for part in parts for n in (part if isinstance(part, tuple) else (part,))]
        counts[id(node)] = 1 + sum(_count_expanded(child, counts) for child in children)
    return counts[id(node)]
