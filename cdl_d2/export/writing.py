"""Writing of graphs and their card to a folder, after a check against the model."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cdl_d2.errors import CdlError, check_choice
from cdl_d2.export.formats import (
    SUFFIXES,
    NotTraceable,
    Runner,
    load,
    output_shapes,
    save,
    save_whole,
    trace,
)
from cdl_d2.export.graphs import Graph, ModelGraphs
from cdl_d2.export.whole_graphs import Tensors, Value, WholeGraph
from cdl_d2.files import new_folder, write_json

TOLERANCE = 1e-4  # of the largest value of an output
SMALLEST = range(1, 9)  # sides to try, in multiples


def export_model(
    make: Callable[[tuple[int, int] | None], ModelGraphs],
    file_format: str,
    folder: Path,
    size: tuple[int, int] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Write graphs for images of any size, or else for the size that the model is evaluated on.

    Args:
        make: returns the graphs for a size, or with None for any size.
        file_format: a key of SUFFIXES.
        folder: must not exist.
        size: (H, W) in pixels of all images; None for any size.
        report: called with a line about each graph.

    Raises:
        CdlError, OSError: if `write_graphs` raises them, or a size is needed and unknown.
    """
    check_free(folder)
    model = make(size)
    if size is None and model.fixed_size is not None:
        report(_one_size(model.fixed_size))
    try:
        return write_graphs(model, file_format, folder, report)
    except NotTraceable as error:
        if model.fixed_size is not None:
            raise
        if model.usual_size is None:
            raise CdlError(f"{error}: give a fixed image size (height, width)") from error
    report(_one_size(model.usual_size))
    return write_graphs(make(model.usual_size), file_format, folder, report)


def _one_size(size: tuple[int, int]) -> str:
    return f"this network needs a fixed size: exporting it for {size[0]} x {size[1]} pixels only"


def write_graphs(
    model: ModelGraphs,
    file_format: str,
    folder: Path,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Write each graph and `card.json`, and compare the written graphs with the model.

    Whole graphs are written in the format `onnx` only.

    Args:
        model: graphs and card.
        file_format: a key of SUFFIXES.
        folder: must not exist; appears once its content is complete and checked.
        report: called with a line about each graph.

    Returns:
        the card.

    Raises:
        NotTraceable: if a graph cannot be exported, or not with open sizes.
        CdlError: if `folder` exists, a written graph differs from the model, ONNX lacks an
            operator, or a package is missing.
        OSError: if the files cannot be written.
    """
    check_choice("format", file_format, SUFFIXES)
    check_free(folder)
    card = {
        "cdl_d2": version("cdl_d2"),
        "torch": version("torch"),
        "format": file_format,
        "size": model.fixed_size or "any",
        **model.card,
        "not_exported": model.not_exported,
        "graphs": {},
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(folder) as temporary:
        for graph in model.graphs:
            program, path = trace(graph), temporary / f"{graph.name}.{SUFFIXES[file_format]}"
            save(graph, program, path)
            difference = largest_difference(graph, path)
            described = _description(graph, path.name, output_shapes(graph, program))
            card["graphs"][graph.name] = described | {"difference": difference}
            report(f"{path.name}: differs by {difference:.1e} of the largest value at most")
        for graph in model.whole if file_format == "onnx" else ():
            card["graphs"][graph.name] = _write_whole(graph, temporary)
            report(f"{graph.name}.onnx: {card['graphs'][graph.name]['check']}")
        if model.fixed_size is None:
            name = next(iter(card["graphs"]))
            smallest = _smallest(model.graphs[0], temporary / card["graphs"][name]["file"])
            card["smallest_pixels"] = smallest * card["multiple_of_pixels"]
        for name, reason in model.not_exported.items():
            report(f"{name} is not exported: {reason}")
        write_json(temporary / "card.json", card)
        check_free(folder)
    return card


def _write_whole(graph: WholeGraph, folder: Path) -> dict[str, Any]:
    """Write a whole graph, compare it with its module, and return its part of the card."""
    path, examples = folder / f"{graph.name}.onnx", graph.examples()
    save_whole(graph, examples[0], path)
    run = load(path)
    expected = [graph.run(inputs) for inputs in examples]
    outputs = [_run(graph.name, run, inputs) for inputs in examples]
    described = {"file": path.name, "check": graph.compare(expected, outputs)}
    for kind in ("inputs", "outputs"):
        described[kind] = [_value_card(value) for value in getattr(graph, kind)]
    return described


def _run(name: str, run: Runner, inputs: Tensors) -> Tensors:
    try:
        return run(inputs)
    except Exception as error:  # each runtime has errors of its own
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
        reason = " ".join(str(error).split())[:200]
        raise CdlError(f"{name}, exported, does not run on {shapes}: {reason}") from error


def _value_card(value: Value) -> dict[str, Any]:
    shape = [side if isinstance(side, int) else str(side) for side in value.shape]
    return vars(value) | {"shape": shape}


def check_free(folder: Path) -> None:
    """Raise CdlError if `folder` exists."""
    if os.path.lexists(folder):
        raise CdlError(f"{folder} exists already: remove it, or take another folder")


def largest_difference(graph: Graph, path: Path) -> float:
    """Return the largest difference between a written graph and its module.

    Relative to the largest absolute value of each output, for random inputs of two sizes.

    Raises:
        CdlError: if it is more than TOLERANCE, or the graph does not run.
    """
    run, worst = load(path), 0.0
    larger = {name: size + 1 + index for index, (name, size) in enumerate(graph.sizes.items())}
    single = {name: 1 for name in graph.sizes if name in ("n", "r")}
    for sizes in (graph.sizes, larger | single):
        inputs = graph.draw(sizes)
        for difference in _differences(graph, run, inputs).values():
            worst = max(worst, difference)
    return worst


def _differences(graph: Graph, run: Runner, inputs: Tensors) -> dict[str, float]:
    expected, outputs = graph.run(inputs), _run(graph.name, run, inputs)
    differences = {}
    for name, reference, output in zip(graph.outputs, expected, outputs, strict=True):
        if reference.shape != output.shape:
            raise CdlError(
                f"{graph.name}, exported, returns {name} of shape {tuple(output.shape)}, the model "
                f"{tuple(reference.shape)}"
            )
        scale = max(float(reference.abs().max()), torch.finfo(reference.dtype).tiny)
        differences[name] = float((reference - output).abs().max()) / scale
        if not differences[name] <= TOLERANCE:
            raise CdlError(
                f"{graph.name}, exported, differs from the model in {name} by "
                f"{differences[name]:.1e} of the largest value, more than {TOLERANCE:.0e}"
            )
    return differences


def _smallest(graph: Graph, path: Path) -> int:
    """Return the smallest side, in multiples, that a written graph takes.

    Features can be too small for a convolution, and torch.export treats a side of 1 as a constant.
    """
    run = load(path)
    for side in SMALLEST:
        try:
            _differences(graph, run, graph.draw({"n": 1, "h": side, "w": side}))
        except (CdlError, RuntimeError, ValueError):
            continue
        return side
    return min(graph.sizes["h"], graph.sizes["w"])


def _description(
    graph: Graph, file: str, outputs: dict[str, list[int | str]]
) -> dict[str, str | list[dict[str, Any]]]:
    inputs = {
        name: [side if isinstance(side, int) else str(side) for side in shape]
        for name, shape in graph.inputs.items()
    }
    described = {
        kind: [{"name": k, "shape": v, "dtype": "float32"} for k, v in shapes.items()]
        for kind, shapes in (("inputs", inputs), ("outputs", outputs))
    }
    return {"file": file, **described}
