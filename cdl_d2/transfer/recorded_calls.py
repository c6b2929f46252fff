"""What a library's model computes inside and gives to nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def recorded_calls(owner: object, name: str, record: Callable[[Any], None]) -> Iterator[None]:
    """Inside, `record` gets the result of each call of a method, or of a callable attribute, of
    `owner`: for what no forward hook sees."""
    original, own = getattr(owner, name), name in vars(owner)

    def call(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        record(result)
        return result

    setattr(owner, name, call)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, original)
        else:
            delattr(owner, name)
