"""Multiply-adds of a network, counted with fvcore."""

from __future__ import annotations

import torch
from torch import nn

from cdl_d2.errors import imports_of_extra

with imports_of_extra("report"):
    from fvcore.nn import FlopCountAnalysis


def count_network(network: nn.Module, *inputs: torch.Tensor) -> int:
    """Of convolutions and linear layers, plus one a normalized element; on the CPU."""
    analysis = FlopCountAnalysis(network.cpu().eval(), inputs)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return int(analysis.total())
