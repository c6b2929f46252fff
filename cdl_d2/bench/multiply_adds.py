"""Multiply-adds of a network, counted with fvcore."""

from __future__ import annotations

import torch
from torch import nn

from cdl_d2.errors import imports_of_extra


def count_network(network: nn.Module, *inputs: torch.Tensor) -> int:
    """Count those of convolutions and linear layers, plus one per normalized element, on the CPU.

    Raises:
        MissingPackageError: without fvcore.
    """
    with imports_of_extra("report"):
        from fvcore.nn import FlopCountAnalysis
    analysis = FlopCountAnalysis(network.cpu().eval(), inputs)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return int(analysis.total())
