"""A model that a training left in its output folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from torch import nn

from cdl_d2.d2.building import build_model
from cdl_d2.d2.checkpoint import load_all_weights
from cdl_d2.d2.config import without_initialization
from cdl_d2.d2.config_files import read_config
from cdl_d2.d2.tasks import build_mapper
from cdl_d2.files import CONFIG_FILE, WEIGHTS_FILE


def load_trained(folder: str | Path, device: str | None = None) -> nn.Module:
    """The model of `config.yaml` and `model_final.pth`, in eval mode; no data set is needed.

    Args:
        device: instead of the one that it was trained on.

    Raises:
        FileNotFoundError, CdlError: if either is missing or cannot be read.
    """
    cfg = read_config(Path(folder) / CONFIG_FILE)
    return build_trained(cfg, Path(folder) / WEIGHTS_FILE, device)


def build_trained(cfg: CfgNode, weights: str | Path, device: str | None = None) -> nn.Module:
    """As load_trained, of a config and a file of weights."""
    if device is not None:
        cfg.MODEL.DEVICE = device
    model = build_model(without_initialization(cfg))
    load_all_weights(model, str(weights))
    return model.eval()


def evaluation_mapper(folder: str | Path) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """From a record with `file_name` to an item with its `image`, resized or cropped as in the
    model's evaluation; raises CdlError for what cannot be read."""
    options = ["INPUT.LATENT_SOURCE", "model"]
    return evaluation_mapper_of(read_config(Path(folder) / CONFIG_FILE, options))


def evaluation_mapper_of(cfg: CfgNode) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """As evaluation_mapper, of a config."""
    return build_mapper(cfg, is_train=False)
