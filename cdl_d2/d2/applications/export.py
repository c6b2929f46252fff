"""Parts of a Detectron2 model that can be exported: functions of tensors, and a card."""

from __future__ import annotations

from dataclasses import replace

import torch
from detectron2.config import CfgNode
from torch import nn

from cdl_d2.d2.tasks import class_count, match_task
from cdl_d2.errors import CdlError
from cdl_d2.export.graphs import Axis, Graph, ModelGraphs, check_one_codec, on_cpu
from cdl_d2.nn.input.coded_input import CodedInput
from cdl_d2.nn.selection.channel_selection import ChannelGate

CODING = "encoding images and reading bitstreams; padding"
GATE = "choosing channels: multiply the unpadded latent by the output of `gate`, then pad"


@torch.no_grad()
def model_graphs(
    model: nn.Module,
    cfg: CfgNode | None,
    size: tuple[int, int] | None = None,
    default_input: CodedInput | None = None,
    classes: int | None = None,
) -> ModelGraphs:
    """Return the graphs of a model: `backbone`, heads of a detector, and `gate` if it has one.

    Args:
        model: in eval mode; one on another device is copied to the CPU.
        cfg: its config; None for a detector of a LazyConfig.
        size: (H, W) in pixels of the only images that the graphs will fit; None for any.
        default_input: input of a model of Detectron2's own; default that of `cfg`.
        classes: number of classes; default that of `cfg`.

    Raises:
        CdlError: for a model, or heads, of a kind that cannot be exported.
    """
    build_graphs = match_task(type(model)).build_graphs
    if build_graphs is None:
        raise CdlError(
            f"a {type(model).__name__} cannot be exported: R-CNNs, RetinaNet, FCOS, segmentation "
            "models and classifiers can"
        )
    coded_input = getattr(model, "coded_input", None) or default_input
    coded_input = coded_input or CodedInput("image", None, cfg.INPUT.FORMAT)
    check_one_codec(model)
    model = on_cpu(model)
    graphs = build_graphs(model, coded_input, cfg, size)
    in_python = [CODING, *graphs.card.pop("in_python")]
    parts, selection = graphs.graphs, getattr(model, "selection", None)
    if selection is not None and isinstance(selection.chooser, ChannelGate):
        shape = (Axis("n"), selection.chooser.channels, Axis("h"), Axis("w"))
        sizes = {"n": 2, "h": 3, "w": 4}
        parts += (Graph("gate", selection.chooser, {"y_hat": shape}, ("choice",), sizes),)
        in_python.append(GATE)
    head = {
        "model": type(model).__name__,
        "classes": class_count(cfg) if classes is None else classes,
    }
    card = head | graphs.card | {"not_in_the_parts": in_python}
    return replace(graphs, graphs=parts, card=card)
