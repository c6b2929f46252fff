"""Loading of the model in a training's output folder, and of its evaluation mapper."""

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
    """Load `config.yaml` and `model_final.pth` of a folder; no data set is needed.

    Args:
        folder: output folder of a training.
        device: where to put the model; default that of the training.

    Returns:
        the model, in eval mode.

    Raises:
        FileNotFoundError, CdlError: if either file is missing or cannot be read.
    """
    cfg = read_config(Path(folder) / CONFIG_FILE)
    return build_trained(cfg, Path(folder) / WEIGHTS_FILE, device)


def build_trained(cfg: CfgNode, weights: str | Path, device: str | None = None) -> nn.Module:
    """Build the model of a config with all its weights, in eval mode.

    Raises:
        FileNotFoundError, CdlError: if the weights cannot be read, or do not fit the config.
    """
    if device is not None:
        cfg.MODEL.DEVICE = device
    model = build_model(without_initialization(cfg))
    load_all_weights(model, str(weights))
    return model.eval()


def evaluation_mapper(folder: str | Path) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return the mapper of a training's evaluation, which reads images.

    It maps a record with `file_name` to a sample with `image`, resized or cropped, and raises
    CdlError for a file that cannot be read.
    """
    options = ["INPUT.LATENT_SOURCE", "model"]
    return build_mapper(read_config(Path(folder) / CONFIG_FILE, options), is_train=False)
