"""Whole graphs in onnxruntime."""

import pytest

from cdl_d2.export.formats import load, save_whole


def run_whole(graph, folder):
    """Return a function that runs a whole graph, traced at the first example; skip without ONNX."""
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    path = folder / f"{graph.name}.onnx"
    save_whole(graph, graph.examples()[0], path)
    return load(path)
