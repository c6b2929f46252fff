"""Arithmetic that gives encoder and decoder the same numbers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def exact_arithmetic(device: torch.device) -> Iterator[None]:
    """No gradients, no autocast, and no TF32, in which a GPU would round differently."""
    with (
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
        torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
    ):
        yield


def in_float64(module: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """The module's function, computed in float64 and rounded to float32.

    The order of summation depends on the number of threads and on the processor. In float32 that
    changes the last bits of a prediction, and now and then a decoder's symbols; in float64 the
    differences are far below the rounding.
    """
    state = [*module.parameters(), *module.buffers()]
    exact_state = {id(each): each.double() for each in state if each.is_floating_point()}
    exact = copy.deepcopy(module, exact_state)  # unlike functional_call it can be traced
    return lambda x: exact(x.double()).float()
