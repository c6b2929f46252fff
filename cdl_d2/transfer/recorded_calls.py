"""Record intermediate results of a third-party model, by forward hooks or a wrapped method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

Select = Callable[[tuple[Any, ...], Any], Any]


def output(inputs: tuple[Any, ...], output: Any) -> Any:
    """Select the output of a module."""
    return output


def output_at(index: int) -> Select:
    """Select an element of a module's output."""
    return lambda inputs, output: output[index]


def input_at(index: int) -> Select:
    """Select a positional input of a module."""
    return lambda inputs, output: inputs[index]


def recorded_modules(record: object, modules: Mapping[str, tuple[nn.Module, Select]]) -> ExitStack:
    """Set an attribute of `record` at each call of a module, until the returned context is left.

    `modules` maps the attribute to a module and to what is recorded of its inputs and output.
    """

    def make_hook(name: str, select: Select) -> Callable[..., None]:
        return lambda module, inputs, output: setattr(record, name, select(inputs, output))

    stack = ExitStack()
    for name, (module, select) in modules.items():
        stack.callback(module.register_forward_hook(make_hook(name, select)).remove)
    return stack


@contextmanager
def recorded_calls(owner: object, name: str, record: Callable[[Any], None]) -> Iterator[None]:
    """Pass the result of each call of a method, which no forward hook reaches, to `record`."""
    original, is_own = getattr(owner, name), name in vars(owner)

    def call(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        record(result)
        return result

    setattr(owner, name, call)
    try:
        yield
    finally:
        if is_own:
            setattr(owner, name, original)
        else:
            delattr(owner, name)
