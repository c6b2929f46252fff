"""Detectors whose backbone runs in another runtime than eager PyTorch, for comparison."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from cdl_d2.errors import CdlError, check_choice
from cdl_d2.export import export_model
from cdl_d2.export.formats import load
from cdl_d2.export.graphs import ModelGraphs
from cdl_d2.prediction.models import PredictionModel

RUNTIMES = ("eager", "compile", "onnxruntime")


def with_runtime(model: PredictionModel, runtime: str, folder: Path) -> PredictionModel:
    """Return a detector whose backbone runs in another runtime; the rest stays in PyTorch.

    Args:
        model: the detector.
        runtime: `eager`, unchanged; `compile`, by torch.compile; `onnxruntime`, exported to ONNX.
        folder: folder for the exported files.

    Raises:
        CdlError: if the runtime is unknown, or the model has no backbone or cannot be exported.
        MissingPackageError: if the extra `export` is not installed.
    """
    check_choice("runtime", runtime, RUNTIMES)
    if runtime == "eager":
        return model
    backbone = getattr(model.network, "backbone", None)
    if backbone is None or "logits" in model.export_graphs().graphs[0].outputs:
        raise CdlError(f"--runtime {runtime} is for detectors, not for {model.task.name}")
    if runtime == "compile":
        backbone.forward = torch.compile(backbone.forward)
        return model

    def only_backbone(size: tuple[int, int] | None) -> ModelGraphs:
        graphs = model.export_graphs(size)
        return replace(graphs, graphs=graphs.graphs[:1], whole=())

    card = export_model(only_backbone, "onnx", folder / "exported")
    run = load(folder / "exported" / card["graphs"]["backbone"]["file"])
    side = 4 * card["multiple_of_positions"] + model.coded_input.margin
    names = list(backbone(torch.zeros(1, model.coded_input.channels, side, side)))
    backbone.forward = lambda x: dict(zip(names, run([x]), strict=True))
    return model
