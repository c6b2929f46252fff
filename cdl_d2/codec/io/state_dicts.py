"""State dicts as training scripts write them, brought to the names of a network and loaded.

A state dict maps the name of each entry of a network to a tensor. Files have it among other things
(the epoch, the state of an optimizer), under one of WRAPPERS, with names that begin with one of
PREFIXES, or as earlier versions of CompressAI called them.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Container, Iterable, Mapping
from itertools import accumulate, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cdl_d2.codec.io.unread_objects import unread_class
from cdl_d2.errors import CdlError

# Where a checkpoint has its weights; the first that is there counts, so averages are the last.
WRAPPERS = (
    *("state_dict", "model", "model_state_dict", "network", "net", "params"),
    *("ema", "model_ema", "state_dict_ema", "params_ema"),
)
PREFIXES = ("module", "_orig_mod", "model", "net", "network")  # before a name, also several
# Within a name, where a part of a network was compiled, or wrapped for training.
INSIDE = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Entropy-coding tables are derived from the weights by `update()`; they are not weights.
TABLES = ("_quantized_cdf", "_offset", "_cdf_length", "scale_table")
CONSTANTS = (".num_batches_tracked", ".bound", ".scale_bound", ".target")  # need not be in a file
COUNTERS = ("n_averaged",)  # of PyTorch's AveragedModel
IN_BOTTLENECK = re.compile(r"(.*\.|)_?(matri|bias|factor)(?:x|ces|es|s)?\.?(\d+)")
KINDS = {"matri": "matrices", "bias": "biases", "factor": "factors"}  # since 1.2.6
OLD_KINDS = {"matri": "matrix", "bias": "bias", "factor": "factor"}  # and of variable rates
SAVE_AGAIN = "save it again with torch.save(network.state_dict(), PATH)"
SHOWN = 3  # names of each kind in an error

State = dict[str, torch.Tensor]


def state_dict_in(content: object, source: str | Path) -> State:
    """Return the state dict in the content of a checkpoint: itself, the first of WRAPPERS that has
    tensors, or the only one under another key; or, one level deeper, the same of that.

    Args:
        source: name of the file, for errors.

    Raises:
        CdlError: if there is no state dict of plain, finite tensors.
    """
    state = _weights_in(content)
    check_state_dict(state, source)
    return state


def _weights_in(content: object, depth: int = 2) -> object:
    if not depth or not isinstance(content, Mapping) or _is_state_dict(content):
        return content
    held = [content[key] for key in WRAPPERS if key in content]
    if not held:
        held = [value for value in content.values() if _is_state_dict(value)]
        if len(held) != 1:
            return content
    inner = [_weights_in(value, depth - 1) for value in held]
    return next((state for state in inner if _tensors_in(state)), inner[0])


def _is_state_dict(content: object) -> bool:
    return bool(count := _tensors_in(content)) and count == len(content)


def _tensors_in(content: object) -> int:
    values = content.values() if isinstance(content, Mapping) else ()
    return sum(isinstance(value, torch.Tensor | np.ndarray) for value in values)


def check_state_dict(state: object, source: str | Path) -> None:
    """Raise CdlError unless this is a dict of plain tensors, or arrays, of finite numbers."""
    if kind := unread_class(state):
        raise CdlError(
            f"{source} cannot be read as weights: it holds a pickled {kind}: {SAVE_AGAIN}"
        )
    if not isinstance(state, dict):
        raise CdlError(f"{source} cannot be read as weights: it has no state dict of tensors")
    for name, values in state.items():
        tensor = _plain_tensor(values) if isinstance(name, str) else None
        if tensor is None:
            kind = f"a pickled {unread_class(values)}" if unread_class(values) else "no tensor"
            raise CdlError(
                f"{source} cannot be read as weights: {str(name)[:80]} is {kind}, "
                f"where tensors are expected: {SAVE_AGAIN}"
            )
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise CdlError(
                f"{source} has weights that are not finite, in {name}: its training diverged, take "
                "an earlier checkpoint"
            )


def _plain_tensor(values: object) -> torch.Tensor | None:
    """Return a tensor that is what its numbers in memory are: no sparse one, for example, and none
    of one number that stands for 2^50, as files can have them; else None."""
    if not isinstance(values, torch.Tensor | np.ndarray):
        return None
    try:
        tensor = torch.as_tensor(values)
        if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized:
            return None
        return tensor if not tensor.is_meta and _fills_its_memory(tensor) else None
    except (RuntimeError, TypeError, ValueError):  # an array of a type that PyTorch has not
        return None


def _fills_its_memory(tensor: torch.Tensor) -> bool:
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def fit_names(
    state: Mapping[str, Any], names: Iterable[str], rename: Callable[[str], str] = str
) -> dict[str, Any]:
    """Return a state with the names that a network expects, as far as they can be recognized.

    A prefix is left out only if more of the names are recognized without it. Candidates are
    PREFIXES, also several, and what all entries begin with. Entries of other names stay.

    Args:
        names: of the network's entries, or some of them.
        rename: gives the network's name of an entry from the file's, without its prefix.
    """
    names, best = set(names), {rename(key): value for key, value in state.items()}
    for bare in (list(state), [_without_inside(key) for key in state]):
        entries = list(zip(bare, state.values(), strict=True))
        for prefix in _prefixes(bare):
            # Where two entries get one name, the one with the prefix has it.
            ordered = sorted(entries, key=lambda entry: entry[0].startswith(prefix))
            renamed = {rename(key.removeprefix(prefix)): value for key, value in ordered}
            if len(names & renamed.keys()) > len(names & best.keys()):
                best = renamed
    return {_current_name(key, names): value for key, value in best.items()}


def _without_inside(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in INSIDE)


def _prefixes(names: list[str]) -> list[str]:
    """Return what may be left out where names begin, each with its dot, short ones first."""
    prefixes = {""}
    for name in names:
        parts = name.split(".")[:-1]
        wrapped = takewhile(lambda part: part in PREFIXES, parts)
        prefixes.update(accumulate(f"{part}." for part in wrapped))
    if names:
        first, last = (name.split(".") for name in (min(names), max(names)))
        pairs = zip(first[:-1], last[:-1], strict=False)
        common = takewhile(lambda pair: pair[0] == pair[1], pairs)
        prefixes.update(accumulate(f"{part}." for part, _ in common))
    return sorted(prefixes, key=len)


def _current_name(name: str, names: set[str]) -> str:
    """Return the name that the network has for an entry of another version of CompressAI."""
    if name in names:
        return name
    others = [name.replace(".downsample.", ".skip.")]
    if match := IN_BOTTLENECK.fullmatch(name):
        module, kind, number = match.groups()
        others += [f"{module}{KINDS[kind]}.{number}", f"{module}_{OLD_KINDS[kind]}{number}"]
    return next((other for other in others if other in names), name)


def load_into(
    network: nn.Module,
    state: Mapping[str, torch.Tensor],
    source: str | Path,
    *,
    other_head: bool = False,
    rename: Callable[[str], str] = str,
    refused: Container[str] | None = None,
) -> None:
    """Load weights into a network: every entry of it, but for CONSTANTS and coding tables.

    Args:
        state: as a file has it, see fit_names.
        source: name of the file, for messages.
        other_head: leave out the last layer if it is of another number of classes.
        rename: gives the network's name of an entry from the file's, without its prefix.
        refused: first parts of names; an entry that the network does not have is an error if its
            name begins with one of these, and is left out with a warning otherwise. Default: any.

    Raises:
        CdlError: with the names of entries that are missing, unknown or of another shape.
    """
    own = weights_of(network)
    state = fit_names(state, own, rename)
    state = {k: v for k, v in state.items() if k in own or not is_table(k)}
    head = _head_of(own, state) if other_head else set()
    state = {k: v for k, v in state.items() if k not in head and k not in COUNTERS}
    missing, unknown, reshaped = _load(network, state, own, source)
    missing = [k for k in missing if k in own and k not in head and not k.endswith(CONSTANTS)]
    unknown = [k for k in unknown if not k.endswith(CONSTANTS)]
    wrong = [k for k in unknown if refused is None or k.split(".")[0] in refused]
    if missing or wrong or reshaped:
        difference = describe(missing, wrong, reshaped)
        raise CdlError(f"{source} does not fit this {type(network).__name__}: {difference}")
    if unknown:
        warnings.warn(f"{source}: {describe([], unknown, [])}, and left out", stacklevel=2)


def _load(
    network: nn.Module, state: Mapping[str, torch.Tensor], own: State, source: str | Path
) -> tuple[list[str], list[str], list[str]]:
    """Load what fits; return the entries that are missing, unknown, and of another shape."""
    try:
        return *nn.Module.load_state_dict(network, state, strict=False), []
    except RuntimeError as error:  # of shapes, and of what a module itself says
        reshaped = [_shapes(k, state[k], own[k]) for k in own if _differ(k, state, own)]
        if not reshaped:
            raise CdlError(f"{source} cannot be loaded: {str(error)[:300]}") from error
    return [k for k in own if k not in state], [k for k in state if k not in own], reshaped


def _head_of(own: State, state: Mapping[str, torch.Tensor]) -> set[str]:
    """Return the entries of the last layer, of every classifier its head, that a file does not have
    in their shape."""
    last = list(own)[-1].rpartition(".")[0] + "."
    heads = (key for key in own if key.startswith(last))
    return {key for key in heads if key not in state or _differ(key, state, own)}


def _differ(key: str, state: Mapping[str, torch.Tensor], own: State) -> bool:
    return key in state and tuple(state[key].shape) != tuple(own[key].shape)


def _shapes(key: str, theirs: torch.Tensor, ours: torch.Tensor) -> str:
    return f"{key} {tuple(theirs.shape)} instead of {tuple(ours.shape)}"


def describe(missing: list[str], unknown: list[str], reshaped: list[str]) -> str:
    """Return how a file's entries differ from a network's: counts, and the first few names."""
    kinds = {"missing": missing, "unknown": unknown, "of another shape": reshaped}
    return "; ".join(
        f"{len(names)} {'entry is' if len(names) == 1 else 'entries are'} {kind} "
        f"({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"
        for kind, names in kinds.items()
        if names
    )


def weights_of(network: nn.Module) -> State:
    """Return the state of a network without its entropy-coding tables."""
    parameters = {name for name, _ in network.named_parameters()}
    state = network.state_dict()
    return {k: v for k, v in state.items() if k in parameters or not is_table(k)}


def is_table(name: str) -> bool:
    """Return whether an entry of a state has the name of an entropy-coding table."""
    return name.rpartition(".")[2] in TABLES
