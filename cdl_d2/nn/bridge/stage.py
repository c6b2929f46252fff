"""Stages of an RGB network: a module behind the first layers, whose output a bridge replaces.

Shapes: N images of H x W pixels, C channels of the stage.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import nn

from cdl_d2.errors import CdlError
from cdl_d2.nn.bridge.linear_bridge import STRIDES, find_first_convolution, replace_module

Run = Callable[[], object]


class _Reached(Exception):
    """Ends a forward pass once a module has run."""


@dataclass(frozen=True)
class Stage:
    """Output of a module.

    Attributes:
        name: name of the module.
        channels: channels of its output, C.
        stride: pixels per position of its output.
        is_rectified: the output is not negative, as that of a ReLU.
        before: names of the modules from the first convolution on that run before it.
    """

    name: str
    channels: int
    stride: int
    is_rectified: bool
    before: tuple[str, ...]


def find_stage(network: nn.Module, name: str, run: Run, size: tuple[int, int]) -> Stage:
    """Return the stage of a network that a module ends.

    Args:
        network: RGB network with one convolution on pixels.
        name: name of the module.
        run: runs the network on an image that is not constant.
        size: (H, W) of the image in pixels.

    Raises:
        CdlError: for an unknown module, one that does not run, or before the first convolution; if
            its output is no N x C x H/stride x W/stride, or layers before it run again behind it.
    """
    modules = dict(network.named_modules())
    if not name or name not in modules:
        raise CdlError(
            f"{type(network).__name__} has no module {name!r}, only "
            f"{', '.join(n for n, _ in network.named_children())} and those inside of them"
        )
    calls, output = _record_calls(modules, run, modules[name])
    first, _ = find_first_convolution(network)
    start = next((n for n in calls if _is_in(first, n) and not _is_in(name, n)), None)
    if start is None or name not in calls or calls.index(name) < calls.index(start):
        raise CdlError(f"{name} does not run behind the first convolution, {first}")
    end = calls.index(name)
    before: list[str] = []
    for module in calls[calls.index(start) : end]:
        if not _is_in(name, module) and not any(
            _is_in(module, name_before) for name_before in before
        ):
            before.append(module)
    if repeated := set(before) & set(calls[end:]):
        raise CdlError(f"{min(repeated)} runs before and behind {name}, which cannot be an entry")
    shape = tuple(getattr(output, "shape", ()))
    height, width = size
    strides = (t for t in STRIDES if shape[2:] == (-(-height // t), -(-width // t)))
    stride = next(strides, None)
    if stride is None:
        raise CdlError(
            f"{name} returns {shape or type(output).__name__} for {height} x {width} pixels; "
            "expected N x C x H/stride x W/stride"
        )
    return Stage(name, shape[1], stride, bool(output.min() >= 0), tuple(before))


def bridge_stage(network: nn.Module, stage: Stage, bridge: nn.Module) -> None:
    """Replace a stage by a bridge, in place: modules before it return their input."""
    for name in stage.before:
        replace_module(network, name, nn.Identity())
    replace_module(network, stage.name, bridge)


@torch.no_grad()
def run_to(module: nn.Module, run: Run) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the input and the output of a module in a run of its network, which ends there.

    Raises:
        CdlError: if the module does not run.
    """
    values: list[tuple[torch.Tensor, torch.Tensor]] = []

    def stop(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        values.append((inputs[0], output))
        raise _Reached

    handle = module.register_forward_hook(stop)
    try:
        run()
    except _Reached:
        return values[0]
    finally:
        handle.remove()
    raise CdlError(f"the network does not run its {type(module).__name__} on an image")


def _record_calls(
    modules: dict[str, nn.Module], run: Run, module: nn.Module
) -> tuple[list[str], object]:
    """Return the names of modules in the order of their calls, and the output of a module."""
    calls: list[str] = []
    outputs: list[object] = []

    def note(name: str) -> Callable[..., None]:
        return lambda module, inputs: calls.append(name)

    with ExitStack() as stack, torch.no_grad():
        for name, candidate in modules.items():
            stack.callback(candidate.register_forward_pre_hook(note(name)).remove)
        hook = module.register_forward_hook(lambda m, inputs, output: outputs.append(output))
        stack.callback(hook.remove)
        run()
    return calls, outputs[0] if outputs else None


def _is_in(name: str, module: str) -> bool:
    """Return whether a module is, or lies in, another one; all lie in the network, ''."""
    return not module or name == module or name.startswith(f"{module}.")
