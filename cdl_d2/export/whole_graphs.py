"""Graphs of a whole function: a detector, from its input to objects, and a codec's encoder.

What they compute has sizes that depend on values, such as the number of objects, and they are
written as ONNX by PyTorch's TorchScript exporter, which traces an example.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from cdl_d2.export.graphs import Shape

Tensors = Sequence[torch.Tensor]


@dataclass(frozen=True)
class Value:
    """An input or output of a whole graph.

    Attributes:
        name: its name.
        shape: sides that are an Axis are of variable size.
        description: what it is, in units and value ranges.
        dtype: type of its numbers.
    """

    name: str
    shape: Shape
    description: str
    dtype: str = "float32"


@dataclass(frozen=True, eq=False)
class WholeGraph:
    """A function from all that a model or a codec reads to its results.

    Attributes:
        name: name of its file.
        module: takes the inputs in order, and returns a tuple of the outputs in order.
        inputs: descriptions of the inputs.
        outputs: descriptions of the outputs.
        examples: returns inputs of several sizes; the first are traced, all are compared.
        compare: returns a phrase on how outputs of the written graph (second argument) agree with
            the module's (first); raises CdlError if they do not.
    """

    name: str
    module: nn.Module
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    examples: Callable[[], Sequence[Tensors]]
    compare: Callable[[Sequence[Tensors], Sequence[Tensors]], str]

    @torch.no_grad()
    def run(self, inputs: Tensors) -> tuple[torch.Tensor, ...]:
        """Return the module's outputs."""
        return self.module(*inputs)
