"""State dicts of training scripts: extracted from checkpoints, renamed, and loaded into networks.

A checkpoint may have its state dict under one of WRAPPERS beside other content (epoch, optimizer),
with names that begin with PREFIXES, or with names of earlier versions of CompressAI.
"""

from __future__ import annotations

import hashlib
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

# Keys of a checkpoint's weights; the first present counts, averages come last.
WRAPPERS = (
    *("state_dict", "model", "model_state_dict", "network", "net", "params"),
    *("ema", "model_ema", "state_dict_ema", "params_ema"),
)
PREFIXES = ("module", "_orig_mod", "model", "net", "network")  # of names, also combined
# Components of names that compiling or wrapping a submodule inserts.
INSERTED = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Entropy-coding tables are derived from the weights by `update()`; they are not weights.
TABLES = ("_quantized_cdf", "_offset", "_cdf_length", "scale_table")
CONSTANTS = (".num_batches_tracked", ".bound", ".scale_bound", ".target")  # optional in a file
COUNTERS = ("n_averaged",)  # of PyTorch's AveragedModel
IN_BOTTLENECK = re.compile(r"(.*\.|)_?(matri|bias|factor)(?:x|ces|es|s)?\.?(\d+)")
KINDS = {"matri": "matrices", "bias": "biases", "factor": "factors"}  # since 1.2.6
OLD_KINDS = {"matri": "matrix", "bias": "bias", "factor": "factor"}  # and of variable rates
SAVE_AGAIN = "save it again with torch.save(network.state_dict(), PATH)"
MAX_LISTED = 3  # names of each kind in an error

State = dict[str, torch.Tensor]


def extract_state_dict(content: object, source: str | Path) -> State:
    """Return the state dict of a checkpoint; `source` names the file in errors.

    It is the content itself, the first of WRAPPERS with tensors, or the only state dict under
    another key; the search goes two levels deep.

    Raises:
        CdlError: if there is no state dict of plain, finite tensors.
    """
    state = _find_state_dict(content)
    _check_state_dict(state, source)
    return state


def _find_state_dict(content: object, depth: int = 2) -> object:
    if not depth or not isinstance(content, Mapping) or _is_state_dict(content):
        return content
    candidates = [content[key] for key in WRAPPERS if key in content]
    if not candidates:
        candidates = [value for value in content.values() if _is_state_dict(value)]
        if len(candidates) != 1:
            return content
    states = [_find_state_dict(candidate, depth - 1) for candidate in candidates]
    return next((state for state in states if _count_tensors(state)), states[0])


def _is_state_dict(content: object) -> bool:
    return bool(count := _count_tensors(content)) and count == len(content)


def _count_tensors(content: object) -> int:
    values = content.values() if isinstance(content, Mapping) else ()
    return sum(isinstance(value, torch.Tensor | np.ndarray) for value in values)


def _check_state_dict(state: object, source: str | Path) -> None:
    problem = f"{source} cannot be read as weights"
    if type(state) is not dict and (kind := unread_class(state)):  # placeholders are subclasses
        raise CdlError(f"{problem}: it contains a pickled {kind}: {SAVE_AGAIN}")
    if not isinstance(state, dict):
        raise CdlError(f"{problem}: it has no state dict of tensors")
    for name, values in state.items():
        tensor = _plain_tensor(values) if isinstance(name, str) else None
        if tensor is None:
            kind = f"a pickled {unread_class(values)}" if unread_class(values) else "no tensor"
            raise CdlError(f"{problem}: {str(name)[:80]} is {kind}, expected tensors: {SAVE_AGAIN}")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise CdlError(
                f"{source} has weights that are not finite, in {name}: the training diverged, use "
                "an earlier checkpoint"
            )


def _plain_tensor(values: object) -> torch.Tensor | None:
    """Return a dense tensor with one number in memory per element; None for any other.

    A hostile file can have a tensor of 2^50 elements with strides of 0.
    """
    if not isinstance(values, torch.Tensor | np.ndarray):
        return None
    try:
        tensor = torch.as_tensor(values)
        if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized:
            return None
        byte_count = tensor.numel() * tensor.element_size()
        is_stored = not tensor.is_meta and byte_count <= tensor.untyped_storage().nbytes()
        return tensor if is_stored else None
    except (RuntimeError, TypeError, ValueError):  # an array of a type that PyTorch lacks
        return None


def fit_names(
    state: Mapping[str, Any], names: Iterable[str], rename: Callable[[str], str] = str
) -> dict[str, Any]:
    """Rename the entries of a state to the names that a network expects, where recognized.

    A prefix is removed if more names match without it. Candidates are combinations of PREFIXES and
    the common beginnings of all names. Unrecognized entries keep their names.

    Args:
        state: state dict of a file.
        names: names of the network's entries, or of some of them.
        rename: function from a name in the file, without prefix, to the network's name.
    """
    names, best = set(names), {rename(key): value for key, value in state.items()}
    parts = [[part for part in key.split(".") if part not in INSERTED] for key in state]
    for bare in (list(state), list(map(".".join, parts))):
        entries = list(zip(bare, state.values(), strict=True))
        for prefix in _prefixes(bare):
            # If two entries get the same name, the one with the prefix comes last and wins.
            ordered = sorted(entries, key=lambda entry: entry[0].startswith(prefix))
            renamed = {rename(key.removeprefix(prefix)): value for key, value in ordered}
            if len(names & renamed.keys()) > len(names & best.keys()):
                best = renamed
    return {_current_name(key, names): value for key, value in best.items()}


def _prefixes(names: list[str]) -> list[str]:
    """Return candidates for a prefix to remove, each with its dot, shortest first."""
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
    """Return the network's name for an entry of another version of CompressAI."""
    if name in names:
        return name
    candidates = [name.replace(".downsample.", ".skip.")]
    if match := IN_BOTTLENECK.fullmatch(name):
        module, kind, number = match.groups()
        candidates += [f"{module}{KINDS[kind]}.{number}", f"{module}_{OLD_KINDS[kind]}{number}"]
    return next((candidate for candidate in candidates if candidate in names), name)


def load_into(
    network: nn.Module,
    state: Mapping[str, torch.Tensor],
    source: str | Path,
    *,
    skip_head: bool = False,
    rename: Callable[[str], str] = str,
    strict_modules: Container[str] | None = None,
) -> None:
    """Load weights into all entries of a network, except CONSTANTS and coding tables.

    Args:
        network: network to load into.
        state: state dict of a file; fit_names adapts its names.
        source: name of the file, for messages.
        skip_head: ignore the last layer if it has another number of classes.
        rename: function from a name in the file, without prefix, to the network's name.
        strict_modules: top-level modules (first components of names) where an entry that the
            network lacks is an error; elsewhere it is ignored with a warning. None: all modules.

    Raises:
        CdlError: with the names of entries that are missing, unknown or of another shape.
    """
    own = get_weights(network)
    state = fit_names(state, own, rename)
    state = {k: v for k, v in state.items() if k in own or not is_table(k)}
    head = _unfit_head(own, state) if skip_head else set()
    state = {k: v for k, v in state.items() if k not in head and k not in COUNTERS}
    missing, unknown, reshaped = _load(network, state, own, source)
    if not (missing or unknown or reshaped):
        return
    missing = [k for k in missing if k in own and k not in head and not k.endswith(CONSTANTS)]
    unknown = [k for k in unknown if not k.endswith(CONSTANTS)]
    wrong = [k for k in unknown if strict_modules is None or k.split(".")[0] in strict_modules]
    if missing or wrong or reshaped:
        difference = describe_mismatch(missing, wrong, reshaped)
        raise CdlError(f"{source} does not fit this {type(network).__name__}: {difference}")
    if unknown:
        warnings.warn(f"{source}: {describe_mismatch([], unknown, [])}: ignored", stacklevel=2)


def _load(
    network: nn.Module, state: Mapping[str, torch.Tensor], own: State, source: str | Path
) -> tuple[list[str], list[str], list[str]]:
    """Load matching entries; return those that are missing, unknown, and of another shape."""
    try:
        return *nn.Module.load_state_dict(network, state, strict=False), []
    except RuntimeError as error:  # of shapes, or of a module's own checks
        reshaped = [
            f"{k} {tuple(state[k].shape)} instead of {tuple(own[k].shape)}"
            for k in own
            if _differ(k, state, own)
        ]
        if not reshaped:
            raise CdlError(f"{source} cannot be loaded: {str(error)[:300]}") from error
    return [k for k in own if k not in state], [k for k in state if k not in own], reshaped


def _unfit_head(own: State, state: Mapping[str, torch.Tensor]) -> set[str]:
    """Return the entries of the last layer (a classifier's head) that do not fit the file."""
    last = list(own)[-1].rpartition(".")[0] + "."
    heads = (key for key in own if key.startswith(last))
    return {key for key in heads if key not in state or _differ(key, state, own)}


def _differ(key: str, state: Mapping[str, torch.Tensor], own: State) -> bool:
    return key in state and tuple(state[key].shape) != tuple(own[key].shape)


def describe_mismatch(missing: list[str], unknown: list[str], reshaped: list[str]) -> str:
    """Describe how a file's entries differ from a network's: counts and the first names."""
    kinds = {"missing": missing, "unknown": unknown, "of another shape": reshaped}
    return "; ".join(
        f"{len(names)} {'entry is' if len(names) == 1 else 'entries are'} {kind} "
        f"({', '.join(names[:MAX_LISTED])}{', ...' if len(names) > MAX_LISTED else ''})"
        for kind, names in kinds.items()
        if names
    )


def get_weights(network: nn.Module) -> State:
    """Return the state of a network without its entropy-coding tables."""
    parameters = {name for name, _ in network.named_parameters()}
    state = network.state_dict()
    return {k: v for k, v in state.items() if k in parameters or not is_table(k)}


def fingerprint(network: nn.Module) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of names and bytes of all weights.

    Masked convolutions of CompressAI set the weights under their mask to zero when they run: these
    count as zero before, too.
    """
    digest = hashlib.sha256()
    state = get_weights(network)
    for name, mask in state.items():
        weight = f"{name.removesuffix('mask')}weight"
        if name.endswith(".mask") and weight in state and state[weight].shape == mask.shape:
            state[weight] = state[weight] * mask
    for name, tensor in sorted(state.items()):
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype};".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def is_table(name: str) -> bool:
    """Return whether an entry of a state has the name of an entropy-coding table."""
    return name.rpartition(".")[2] in TABLES
