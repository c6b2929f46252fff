"""Graphs and their card in a folder, checked against the model before the folder has its name."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cdl_d2.errors import CdlError
from cdl_d2.export.formats import SUFFIXES, NotTraceable, load, save, shapes_of, trace
from cdl_d2.export.graphs import Graph, ModelGraphs
from cdl_d2.files import new_folder, write_json

TOLERANCE = 1e-4  # of the largest value of an output
SMALLEST = range(1, 9)  # multiples a side that are tried


def export_model(
    make: Callable[[tuple[int, int] | None], ModelGraphs],
    file_format: str,
    folder: Path,
    size: tuple[int, int] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """write_graphs for images of any size; or, where a network asks for one, of the size that the
    model is evaluated on.

    Args:
        make: the graphs for a size, or for any.
        size: (H, W) in pixels, to make graphs for this one only.

    Raises:
        CdlError, OSError: as write_graphs.
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
            raise CdlError(f"{error}: give --size HEIGHT WIDTH, and only these will fit") from error
    report(_one_size(model.usual_size))
    return write_graphs(make(model.usual_size), file_format, folder, report)


def _one_size(size: tuple[int, int]) -> str:
    return f"this network leaves no size open: exporting it for {size[0]} x {size[1]} pixels only"


def write_graphs(
    model: ModelGraphs,
    file_format: str,
    folder: Path,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Write each graph and `card.json`, run what was written, and compare.

    Args:
        file_format: a key of SUFFIXES.
        folder: must not exist; appears when everything in it is whole and checked.
        report: is told a line about each graph.

    Returns:
        the card.

    Raises:
        NotTraceable: if a graph cannot be exported, or not with open sizes.
        CdlError: if `folder` exists, if a written graph gives something else than the model, if
            ONNX lacks an operator, or a package is missing.
        OSError: if there is no place for the files.
    """
    if file_format not in SUFFIXES:
        raise CdlError(f"format {file_format!r} is not one of {', '.join(SUFFIXES)}")
    check_free(folder)
    card = {
        "cdl_d2": version("cdl_d2"),
        "torch": version("torch"),
        "format": file_format,
        "size": model.fixed_size or "any",
        **model.card,
        "graphs": {},
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(folder) as place:
        for graph in model.graphs:
            program, path = trace(graph), place / f"{graph.name}.{SUFFIXES[file_format]}"
            save(graph, program, path)
            difference = largest_difference(graph, path)
            described = _description(graph, path.name, shapes_of(graph, program))
            card["graphs"][graph.name] = described | {"difference": difference}
            report(f"{path.name}: differs by {difference:.1e} of the largest value at most")
        if model.fixed_size is None:
            name = next(iter(card["graphs"]))
            smallest = _smallest(model.graphs[0], place / card["graphs"][name]["file"])
            card["smallest_pixels"] = smallest * card["multiple_of_pixels"]
        write_json(place / "card.json", card)
        check_free(folder)
    return card


def check_free(folder: Path) -> None:
    """Raise CdlError if there is something at `folder` already."""
    if os.path.lexists(folder):
        raise CdlError(f"{folder} exists already: remove it, or give another --output")


def largest_difference(graph: Graph, path: Path) -> float:
    """How far a written graph is from its module, over the largest absolute value of each output,
    for two random inputs of different sizes, one of them a single item.

    Raises:
        CdlError: if it is more than TOLERANCE, or the graph does not run.
    """
    run, worst = load(path), 0.0
    other = {name: size + 1 + index for index, (name, size) in enumerate(graph.sizes.items())}
    other |= {name: 1 for name in graph.sizes if name in ("n", "r")}
    for sizes in (graph.sizes, other):
        inputs = graph.draw(sizes)
        for difference in _differences(graph, run, inputs).values():
            worst = max(worst, difference)
    return worst


def _differences(graph: Graph, run: Callable, inputs: tuple[torch.Tensor, ...]) -> dict[str, float]:
    expected = graph.run(inputs)
    try:
        given = run(inputs)
    except Exception as error:  # each runtime has errors of its own
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
        reason = " ".join(str(error).split())[:200]
        raise CdlError(f"{graph.name}, exported, does not run on {shapes}: {reason}") from error
    differences = {}
    for name, ours, theirs in zip(graph.outputs, expected, given, strict=True):
        if ours.shape != theirs.shape:
            raise CdlError(
                f"{graph.name}, exported, gives {name} of shape {tuple(theirs.shape)}, the model "
                f"{tuple(ours.shape)}"
            )
        scale = max(float(ours.abs().max()), torch.finfo(ours.dtype).tiny)
        differences[name] = float((ours - theirs).abs().max()) / scale
        if not differences[name] <= TOLERANCE:
            raise CdlError(
                f"{graph.name}, exported, differs from the model in {name} by "
                f"{differences[name]:.1e} of the largest value, more than {TOLERANCE:.0e}"
            )
    return differences


def _smallest(graph: Graph, path: Path) -> int:
    """The fewest multiples a side that a written graph takes: small features can be too small for
    a convolution, and torch.export takes a side of 1 for something special."""
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
        kind: [{"name": k, "shape": v, "dtype": "float32"} for k, v in each.items()]
        for kind, each in (("inputs", inputs), ("outputs", outputs))
    }
    return {"file": file, **described}
