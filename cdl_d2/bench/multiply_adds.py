"""Multiply-adds of a network, counted with fvcore."""

from __future__ import annotations

import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn


def count_network(network: nn.Module, *inputs: torch.Tensor) -> int:
    """Of convolutions and linear layers, plus one a normalized element; on the CPU."""
    analysis = FlopCountAnalysis(network.cpu().eval(), inputs)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return int(analysis.total())
