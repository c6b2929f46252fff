"""Arithmetic that gives encoder and decoder the same numbers."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

Setting = tuple[object, str, Any]  # an object, its attribute, and a value

# Copies of modules in float64, with the state of the weights that they were made from.
_CONVERTED = WeakKeyDictionary[nn.Module, tuple[list[tuple[int, ...]], nn.Module]]()
_LOCK = threading.Lock()
_users, _before = 0, list[Setting]()  # threads in full_float32; the settings outside of it


@contextmanager
def exact_arithmetic(device: torch.device) -> Iterator[None]:
    """Compute without gradients and autocast, and as full_float32."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False), full_float32():
        yield


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute float32 in full, without TF32 or bfloat16, by deterministic kernels of cuDNN.

    PyTorch has these settings once for all threads: the last one that leaves restores them.
    """
    global _users, _before
    with _LOCK:
        if not _users:
            _before = _set(_exact_settings())
        _users += 1
    try:
        yield
    finally:
        with _LOCK:
            _users -= 1
            if not _users:
                _restore(_before)


def _exact_settings() -> list[Setting]:
    cudnn, cublas, mkldnn = (getattr(torch.backends, k) for k in ("cudnn", "cuda", "mkldnn"))
    settings: list[Setting] = [(cudnn, "deterministic", True), (cudnn, "benchmark", False)]
    if not hasattr(cudnn, "conv"):  # before PyTorch 2.9
        return [*settings, (cudnn, "allow_tf32", False), (cublas.matmul, "allow_tf32", False)]
    operations = (cudnn.conv, cublas.matmul, mkldnn.conv, mkldnn.matmul)
    reduced = [op for op in operations if op.fp32_precision not in ("ieee", "none")]
    return settings + [(operation, "fp32_precision", "ieee") for operation in reduced]


def _set(settings: list[Setting]) -> list[Setting]:
    """Change settings; return them as they were."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in settings]
    for owner, name, value in settings:
        setattr(owner, name, value)
    return before


def _restore(settings: list[Setting]) -> None:
    """Set settings again; a precision that follows from a wider setting goes on to follow it."""
    for owner, name, value in settings:
        if name == "fp32_precision":
            owner.fp32_precision = "none"
        if getattr(owner, name) != value:
            setattr(owner, name, value)


def in_float64(module: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the module's function, computed in float64 and rounded to float32.

    The order of summation depends on the number of threads and on the processor. In float32 that
    changes the last bits of a prediction, and now and then a decoder's symbols; in float64 the
    differences are far below the rounding.

    The converted weights are kept until the module's weights change. With gradients and in traces
    they are converted in each call.
    """
    if torch.is_grad_enabled() or torch.jit.is_tracing() or torch.compiler.is_compiling():
        exact = _to_float64(module)
    else:
        state = _weights_state(module)
        kept_state, exact = _CONVERTED.get(module, (None, None))
        if exact is None or kept_state != state:
            exact = _to_float64(module)
            _CONVERTED[module] = state, exact
    return lambda x: exact(x.double()).float()


def _weights_state(module: nn.Module) -> list[tuple[int, ...]]:
    """Return numbers that differ if weights are replaced, moved or changed in place."""
    return [
        (id(value), value.data_ptr(), 0 if value.is_inference() else value._version)
        for value in (*module.parameters(), *module.buffers())
    ]


def _to_float64(module: nn.Module) -> nn.Module:
    """Return a copy in float64, which calls the hooks that the module has at the time."""
    state = [*module.parameters(), *module.buffers()]
    memo: dict[int, Any] = {
        id(value): value.double() for value in state if value.is_floating_point()
    }
    for hooks in (module._forward_hooks, module._forward_pre_hooks):
        memo[id(hooks)] = hooks
    return copy.deepcopy(module, memo)  # unlike functional_call it can be traced
