"""File formats of exported graphs: PyTorch's `.pt2` and ONNX."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.export import Dim, ExportedProgram

from cdl_d2.errors import CdlError, imports_of_extra
from cdl_d2.export.graphs import Axis, Graph, flatten
from cdl_d2.export.whole_graphs import Tensors, WholeGraph

SUFFIXES = {"onnx": "onnx", "torch": "pt2"}
LARGEST_ONNX = 2**31 - 2**24  # bytes in one file of protobuf, less what is not weights
SMALL_SIDE = 4  # multiples: below, a coarse feature may be 1 wide, which torch.export treats apart
OPSET = 17  # of ONNX, for whole graphs; RoiAlign is aligned from 16 on
Runner = Callable[[Tensors], Tensors]


class NotTraceable(CdlError):
    """The sizes of a graph cannot be left open, or its network cannot be traced."""


def trace(graph: Graph) -> ExportedProgram:
    """Trace a graph with torch.export, on the CPU.

    Raises:
        NotTraceable: if the network cannot be traced at these sizes.
    """
    try:
        return _traced(graph, 0)
    except NotTraceable:
        if not any(isinstance(axis, Axis) for shape in graph.inputs.values() for axis in shape[1:]):
            raise
    return _traced(graph, SMALL_SIDE)


def save(graph: Graph, program: ExportedProgram, path: Path) -> None:
    """Write a traced graph to `path`, in the format of its suffix.

    Raises:
        MissingPackageError: if the packages of the extra `export` are not installed.
        CdlError: if the graph has an operator that ONNX lacks.
    """
    if path.suffix == ".pt2":
        content = io.BytesIO()  # on a full disk, torch.export.save itself ends the process
        torch.export.save(program, content)
        path.write_bytes(content.getbuffer())
        return
    with imports_of_extra("export"):
        import onnxscript  # noqa: F401
        from torch.onnx import OnnxExporterError
    names = {"input_names": list(graph.inputs), "output_names": list(graph.outputs)}
    try:
        with _quiet():
            onnx_program = torch.onnx.export(program, dynamo=True, verbose=False, **names)
    except OnnxExporterError as error:
        reason = " ".join(str(error).split())[:200]
        raise CdlError(f"{graph.name} cannot be written as ONNX: {reason}") from error
    _name_axes(onnx_program.model.graph, _symbols(graph, program))
    size = sum(t.numel() * t.element_size() for t in program.state_dict.values())
    onnx_program.save(path, external_data=size > LARGEST_ONNX)


def save_whole(graph: WholeGraph, inputs: Tensors, path: Path) -> None:
    """Trace a whole graph with example inputs, and write it as ONNX.

    Raises:
        MissingPackageError: if the packages of the extra `export` are not installed.
        CdlError: if the module cannot be traced.
    """
    with imports_of_extra("export"):
        import onnx  # noqa: F401
    values = (*graph.inputs, *graph.outputs)
    open_sides = {
        value.name: {i: side.name for i, side in enumerate(value.shape) if isinstance(side, Axis)}
        for value in values
    }
    try:
        with torch.no_grad(), _quiet():
            torch.onnx.export(
                graph.module,
                tuple(inputs),
                str(path),
                dynamo=False,
                opset_version=OPSET,
                input_names=[value.name for value in graph.inputs],
                output_names=[value.name for value in graph.outputs],
                dynamic_axes=open_sides,
            )
    except Exception as error:  # a network's own code may fail under tracing in any way
        reason = " ".join(str(error).split())[:200]
        raise CdlError(
            f"{graph.name} cannot be exported: {type(error).__name__}: {reason}"
        ) from error


def load(path: Path) -> Runner:
    """Load a written graph, and return a function that runs it on the CPU.

    Raises:
        MissingPackageError: if the packages of the extra `export` are not installed.
    """
    if path.suffix == ".pt2":
        module = torch.export.load(path).module()
        return torch.no_grad()(lambda inputs: module(*inputs))
    with imports_of_extra("export"):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # failures are raised
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [graph_input.name for graph_input in session.get_inputs()]

    def run(inputs: Tensors) -> list[torch.Tensor]:
        arrays = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return [torch.from_numpy(output) for output in session.run(None, arrays)]

    return run


def output_shapes(graph: Graph, program: ExportedProgram) -> dict[str, list[int | str]]:
    """Return the shape of each output; open sides are formulas of the inputs' axes."""
    symbols = _symbols(graph, program)
    values = [node.meta["val"] for node in program.graph.output_node().args[0]]
    shapes = [
        [side if isinstance(side, int) else _renamed(str(side), symbols) for side in value.shape]
        for value in values
    ]
    return dict(zip(graph.outputs, shapes, strict=True))


def _traced(graph: Graph, smallest: int) -> ExportedProgram:
    """Trace a graph for sides of at least `smallest` multiples."""
    axes = {
        axis.name: Dim(axis.name, min=smallest) if index else Dim(axis.name)
        for shape in graph.inputs.values()
        for index, axis in enumerate(shape)
        if isinstance(axis, Axis)
    }
    open_sides = tuple(
        {
            index: axis.length(axes[axis.name])
            for index, axis in enumerate(shape)
            if isinstance(axis, Axis)
        }
        for shape in graph.inputs.values()
    )
    try:
        with torch.no_grad(), _quiet():
            return torch.export.export(
                _Flat(graph).eval(), graph.draw(), dynamic_shapes=(open_sides,), strict=False
            )
    except Exception as error:  # a network's own code may fail under tracing in any way
        reason = " ".join(str(error).split())[:200]
        raise NotTraceable(
            f"{graph.name} cannot be exported: {type(error).__name__}: {reason}"
        ) from error


class _Flat(torch.nn.Module):
    def __init__(self, graph: Graph):
        super().__init__()
        self.module, self._names = graph.module, graph.outputs

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return flatten(self.module(*inputs), self._names)


def _symbols(graph: Graph, program: ExportedProgram) -> dict[str, str]:
    """Return names of axes by torch.export's names of open sides, such as s77."""
    names = set(program.graph_signature.user_inputs)
    nodes = [node for node in program.graph.nodes if node.name in names]
    symbols = {}
    for node, shape in zip(nodes, graph.inputs.values(), strict=True):
        for side, axis in zip(node.meta["val"].shape, shape, strict=True):
            if isinstance(axis, Axis):
                (symbol,) = side.node.expr.free_symbols
                symbols[str(symbol)] = axis.name
    return symbols


def _renamed(formula: str, symbols: dict[str, str]) -> str:
    return re.sub(r"\bs\d+\b", lambda match: symbols.get(match[0], match[0]), formula)


def _name_axes(onnx_graph, symbols: dict[str, str]) -> None:
    """Rename the open sides of an ONNX graph to the names of axes."""
    from onnx_ir import SymbolicDim

    values = [*onnx_graph.inputs, *(value for node in onnx_graph for value in node.outputs)]
    for value in values:
        for index, side in enumerate(value.shape or ()):
            if isinstance(side, SymbolicDim) and side.value is not None:
                value.shape[index] = SymbolicDim(_renamed(side.value, symbols))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence logs and warnings of the exporters."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
