"""A model that train_net.py left in its output folder."""

from __future__ import annotations

from pathlib import Path

from detectron2.modeling import build_model
from torch import nn

from cdl_d2.d2.checkpoint import load_all_weights
from cdl_d2.d2.config import read_config


def load_trained(folder: str | Path) -> nn.Module:
    """The model of `config.yaml` and `model_final.pth`, in eval mode; no data set is needed.

    Raises:
        FileNotFoundError, ValueError: if either is missing or cannot be read.
    """
    cfg = read_config(Path(folder) / "config.yaml")
    model = build_model(cfg)
    load_all_weights(model, str(Path(folder) / "model_final.pth"))
    return model.eval()
