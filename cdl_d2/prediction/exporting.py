"""The parts of a model that can be exported, whichever engine it is of."""

from __future__ import annotations

from cdl_d2.export.graphs import ModelGraphs
from cdl_d2.prediction.models import PredictionModel


def graphs_of(model: PredictionModel, size: tuple[int, int] | None = None) -> ModelGraphs:
    """Return the graphs of a model, which are on the CPU; see export_model.

    Args:
        size: (H, W) in pixels of the only images that the graphs will fit; None for any.

    Raises:
        CdlError: if it is of a kind that cannot be exported.
    """
    if hasattr(model.config, "MODEL"):
        from cdl_d2.d2.applications.export import model_graphs

        graphs = model_graphs(model.network, model.config, size)
    else:
        from cdl_d2.tv.export import detector_graphs

        graphs = detector_graphs(model.network, size)
    graphs.card["class_names"] = list(model.class_names)
    return graphs
