"""Reading of YAML configs and of the files that they are based on, without running code."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import BASE_KEY

from cdl_d2.errors import CdlError
from cdl_d2.yaml_text import read_yaml

MAX_FILES = 100  # that a config is based on
MAX_NUMBERS = 1000  # in the value of an expression
MAX_EXPONENT = 64
EVAL = "tag:yaml.org,2002:python/object/apply:eval"  # of Detectron2's Base-RetinaNet.yaml


def read_based(path: Path) -> dict[str, Any]:
    """Return a config's values merged over those of its `_BASE_`, as Detectron2 merges them.

    Tags for Python objects are rejected, except expressions that compute a list of numbers, as in
    Detectron2's RetinaNets. A `_BASE_` must be a local file.

    Raises:
        FileNotFoundError: if the file, or one that it is based on, does not exist.
        CdlError: for a file that is no YAML mapping, or whose `_BASE_` is no path, or is circular.
    """
    return _read(path, [])


def _read(path: Path, files: list[Path]) -> dict[str, Any]:
    files.append(path)
    if len(files) > MAX_FILES:
        raise CdlError(
            f"config {files[0]}: its _BASE_ leads back to itself, or to over {MAX_FILES} files"
        )
    try:
        content = read_yaml(path.read_bytes(), _Loader)
    except CdlError as error:
        raise CdlError(f"config {path}: {error}") from error
    if not isinstance(content, dict):
        raise CdlError(f"config {path}: it is no mapping of keys")
    bases = content.pop(BASE_KEY, [])
    values: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        _merge(_read(_base_file(path, base), files), values, path)
    _merge(content, values, path)
    return values


def _base_file(path: Path, base: object) -> Path:
    if not isinstance(base, str) or "://" in base:
        raise CdlError(
            f"config {path}: its _BASE_ {str(base)[:80]!r} is no path of a file: "
            "download what you trust, and name the file"
        )
    file = path.parent / Path(base).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"config {path}: there is no file {file}, its _BASE_")
    return file


def _merge(content: dict[str, Any], values: dict[str, Any], path: Path) -> None:
    """Merge a mapping into `values`."""
    for key, value in content.items():
        if isinstance(value, dict) and key in values:
            if not isinstance(values[key], dict):
                raise CdlError(f"config {path}: {key} is a mapping, and a value in its _BASE_")
            _merge(value, values[key], path)
        else:
            values[key] = value


class _Loader(yaml.SafeLoader):
    """SafeLoader that computes lists of numbers."""


def _construct_numbers(loader: _Loader, node: yaml.Node) -> list[Any]:
    arguments = loader.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else []
    if len(arguments) != 1 or not isinstance(arguments[0], str):
        raise _tag_error(arguments)
    try:
        return _list_of_numbers(ast.parse(arguments[0].strip(), mode="eval").body, {})
    except (ArithmeticError, LookupError, RecursionError, SyntaxError, TypeError, ValueError):
        raise _tag_error(arguments[0]) from None


def _tag_error(expression: object) -> CdlError:
    return CdlError(
        f"python/object/apply:eval {str(expression)[:80]!r} is no list of numbers: YAML that runs "
        "Python is not read; write the values out"
    )


_Loader.add_constructor(EVAL, _construct_numbers)

_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
_FUNCTIONS = {"int": int, "float": float, "round": round}


def _list_of_numbers(node: ast.expr, names: dict[str, float]) -> list[Any]:
    """Compute a list, also of lists, or a comprehension over a list or a `range`."""
    if isinstance(node, ast.List):
        return [_value(element, names) for element in node.elts]
    if not isinstance(node, ast.ListComp) or len(node.generators) != 1:
        raise ValueError(ast.dump(node))
    [generator] = node.generators
    if generator.ifs or generator.is_async or not isinstance(generator.target, ast.Name):
        raise ValueError(ast.dump(node))
    source = generator.iter
    if isinstance(source, ast.Call):
        if not isinstance(source.func, ast.Name) or source.func.id != "range" or source.keywords:
            raise ValueError(ast.dump(node))
        numbers = range(*(_number(argument, names) for argument in source.args))
    else:
        numbers = _list_of_numbers(source, names)
    if len(numbers) > MAX_NUMBERS:
        raise ValueError("too many")
    return [_value(node.elt, names | {generator.target.id: number}) for number in numbers]


def _value(node: ast.expr, names: dict[str, float]) -> Any:
    return _list_of_numbers(node, names) if isinstance(node, ast.List) else _number(node, names)


def _number(node: ast.expr, names: dict[str, float]) -> float:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    if isinstance(node, ast.Name):
        return names[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_number(node.operand, names)
    if isinstance(node, ast.BinOp):
        left, right = _number(node.left, names), _number(node.right, names)
        if isinstance(node.op, ast.Pow):
            if abs(right) > MAX_EXPONENT:
                raise ValueError("too large")
            return float(left) ** right
        return _OPERATORS[type(node.op)](left, right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        return _FUNCTIONS[node.func.id](*(_number(argument, names) for argument in node.args))
    raise ValueError(ast.dump(node))
