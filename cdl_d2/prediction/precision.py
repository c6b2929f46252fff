"""Precision of a network's arithmetic in prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from cdl_d2.device import device_of
from cdl_d2.errors import check_choice

FLOAT32 = "float32"
PRECISIONS = {FLOAT32: torch.float32, "bfloat16": torch.bfloat16}


def set_precision(network: nn.Module, precision: str) -> None:
    """Let a network compute convolutions and matrix products in another type, in place.

    Of a detector or a network with a `backbone` only that computes in this type: heads read
    coordinates, which bfloat16 would round to multiples of 8 pixels beyond 1,024. Outputs are
    float32. Codecs compute in float32 in any case.

    Args:
        network: in eval mode.
        precision: a key of PRECISIONS.

    Raises:
        CdlError: for an unknown precision.
    """
    check_choice("precision", precision, PRECISIONS)
    if precision == FLOAT32:
        return
    module = getattr(network, "backbone", network)
    # A partial of a function, unlike a method made here, can be sent to worker processes.
    module.forward = partial(_run_in_type, type(module).forward, module, PRECISIONS[precision])


def _run_in_type(
    forward: Any, module: nn.Module, dtype: torch.dtype, *args: Any, **kwargs: Any
) -> Any:
    with torch.autocast(device_of(module).type, dtype=dtype):
        return _to_float32(forward(module, *args, **kwargs))


def _to_float32(value: Any) -> Any:
    """Convert the floating-point tensors in nested lists, tuples and dicts to float32."""
    if isinstance(value, torch.Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return type(value)((key, _to_float32(item)) for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return type(value)(map(_to_float32, value))
    return value
