"""Graphs of trained models, for runtimes without this package."""

from cdl_d2.export.graphs import Axis, Graph, ModelGraphs
from cdl_d2.export.writing import export_model, write_graphs

__all__ = ["Axis", "Graph", "ModelGraphs", "export_model", "write_graphs"]
