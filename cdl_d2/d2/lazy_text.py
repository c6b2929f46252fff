"""Reader of saved LazyConfigs, which are data: no code of theirs is run.

Detectron2 instantiates whatever a saved LazyConfig names. Here it may name layers of PyTorch,
models of Detectron2 and of this package, and of a project that the user's DETECTRON2_ENV_MODULE
names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import yaml
from detectron2.config.instantiate import locate
from detectron2.layers import ShapeSpec
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from cdl_d2.codec import Codec
from cdl_d2.d2.building import REGISTRIES
from cdl_d2.d2.config import PROJECT_ADVICE
from cdl_d2.errors import CdlError
from cdl_d2.nn.input.coded_input import CodedInput
from cdl_d2.yaml_text import MAX_NODES, read_yaml

PYTHON = "tag:yaml.org,2002:python/"  # prefix of the tags of Python objects
TARGET, TEACHER = "_target_", "teacher"
CLASS_PACKAGES = ("detectron2", "cdl_d2", "torch.nn")  # whose subclasses of nn.Module may be named
FUNCTION_PACKAGES = (  # whose functions and other classes may be named: they build networks
    *("detectron2.modeling", "detectron2.layers", "detectron2.projects"),
    *("cdl_d2.d2.modeling.backbone", "cdl_d2.transfer"),
)
CONFIG_MODULES = "detectron2._cfg_loader"  # prefix of modules that Detectron2 makes of configs
PROJECT_VARIABLES = ("DETECTRON2_ENV_MODULE", "CDL_PROJECT")


def parse_lazy_config(text: str | bytes) -> DictConfig:
    """Return a saved LazyConfig whose `model` can be instantiated without running other code.

    All that is outside of `model` is data, in which Python objects are None. A student's teacher is
    left out: inference does not need it.

    Raises:
        CdlError: if the text is no LazyConfig, or its model names anything else than networks.
    """
    content = read_yaml(text, _Loader)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise CdlError("it has no mapping `model`")
    model = _resolve(content["model"])
    if TEACHER in model:
        model[TEACHER] = no_teacher
    data = {key: _without_objects(value) for key, value in content.items() if key != "model"}
    try:
        config = OmegaConf.create({**data, "model": model}, flags={"allow_objects": True})
        _check_targets(config.model, [MAX_NODES])
    except (OmegaConfBaseException, RecursionError) as error:
        raise CdlError(" ".join(str(error).split())[:300]) from error
    return config


def no_teacher() -> nn.Module:
    """Raise CdlError; the teacher of a student that is loaded for inference."""
    raise CdlError("a student that was loaded from its config.yaml has no teacher")


@dataclass(frozen=True)
class _Tagged:
    """A value with a tag of a Python object, which is not made."""

    tag: str
    value: Any


class _Loader(yaml.SafeLoader):
    """SafeLoader that keeps tags of Python objects."""


def _keep_tag(loader: _Loader, suffix: str, node: yaml.Node) -> _Tagged:
    if isinstance(node, yaml.MappingNode):
        return _Tagged(suffix, loader.construct_mapping(node, deep=True))
    if isinstance(node, yaml.SequenceNode):
        return _Tagged(suffix, loader.construct_sequence(node, deep=True))
    return _Tagged(suffix, loader.construct_scalar(node))


_Loader.add_multi_constructor(PYTHON, _keep_tag)


def _without_objects(value: Any) -> Any:
    """Return plain values, with tuples as lists, and None for other Python objects."""
    if isinstance(value, _Tagged):
        return _without_objects(value.value) if value.tag == "tuple" else None
    if isinstance(value, dict):
        return {key: _without_objects(item) for key, item in value.items()}
    return [_without_objects(item) for item in value] if isinstance(value, list) else value


def _resolve(value: Any) -> Any:
    """Return values with the Python objects that LazyConfigs of models have.

    Raises:
        CdlError: for other objects.
    """
    if isinstance(value, dict):
        return {key: _resolve(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item) for item in value]
    if not isinstance(value, _Tagged):
        return value
    kind, _, name = value.tag.partition(":")
    content = _resolve(value.value)
    try:
        if kind == "tuple":
            return tuple(content)
        if kind == "name":
            return _locate(name)
        if value.tag == "object:detectron2.layers.shape_spec.ShapeSpec":
            return ShapeSpec(**content)
        if value.tag == "object/apply:functools.partial":
            function, positional, named, _ = content["state"]
            return partial(function, *positional, **(named or {}))
    except CdlError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CdlError(f"!!python/{value.tag} has unknown values ({error!r})") from error
    raise CdlError(f"!!python/{value.tag} may run code: only names of networks are read")


def _check_targets(node: Any, budget: list[int]) -> None:
    """Raise CdlError if a `_target_`, after interpolation, may not be called.

    Args:
        node: value in a config, which is walked as `instantiate` does.
        budget: number of nodes that are left.
    """
    budget[0] -= 1
    if budget[0] < 0:
        raise CdlError(f"it has more than {MAX_NODES} values with its interpolations")
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key != TARGET:
                _check_targets(value, budget)
            elif isinstance(value, str):
                _locate(value)
            elif not callable(value):
                raise CdlError(f"{TARGET} {value!r:.80} is no name")
    elif isinstance(node, (ListConfig, list, tuple)):
        for item in node:
            _check_targets(item, budget)


def _locate(name: str) -> Any:
    """Return the class or function of a name.

    Raises:
        CdlError: if there is none, or it does not build a part of a network.
    """
    if "<" in name or name.startswith(CONFIG_MODULES):
        raise CdlError(
            f"{name:.80} is a function of the config's own Python file, which a saved config lacks:"
            " name that file, CONFIG.py:WEIGHTS"
        )
    project = _project_packages()
    target = None
    if _is_within(name, (*CLASS_PACKAGES, *project)):
        try:
            target = locate(name)
        except Exception as error:  # whatever importing a module raises
            raise CdlError(f"{TARGET} {name} cannot be imported ({error!r})") from error
    if target is None or not _builds_network(target, project):
        raise CdlError(
            f"{TARGET} {name:.80} is no network of Detectron2 or of this package: {PROJECT_ADVICE}"
        )
    return target


def _builds_network(target: Any, project: tuple[str, ...]) -> bool:
    if target in (CodedInput, Codec.load):
        return True
    module = getattr(target, "__module__", None) or ""
    if isinstance(target, type) and issubclass(target, nn.Module):
        return _is_within(module, (*CLASS_PACKAGES, *project))
    return callable(target) and _is_within(module, (*FUNCTION_PACKAGES, *project))


def _is_within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _project_packages() -> tuple[str, ...]:
    """Return the packages of the user's project and of the classes that it registered."""
    modules = [os.environ.get(variable, "") for variable in PROJECT_VARIABLES]
    modules += [kind.__module__ for registry in REGISTRIES.values() for _, kind in registry]
    names = dict.fromkeys(module.partition(".")[0] for module in modules)
    return tuple(name for name in names if name and name not in ("detectron2", "cdl_d2"))
