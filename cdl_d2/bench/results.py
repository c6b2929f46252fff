"""Results of trained models: a training's `results.json`, or the metrics of a zoo card."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from cdl_d2 import model_zoo
from cdl_d2.errors import CdlError
from cdl_d2.model_zoo import metrics

RESULTS = "results.json"  # in a training's folder
LABELS = {
    "attributes/accuracy": "attribute accuracy (%)",
    "attributes/balanced_accuracy": "balanced attribute accuracy (%)",
    "bbox/AP": "box AP (%)",
    "bbox/AP50": "box AP at IoU 0.5 (%)",
    "classification/loss": "cross entropy (nats)",
    "classification/top1": "top-1 accuracy (%)",
    "classification/top5": "top-5 accuracy (%)",
    "keypoints/AP": "keypoint AP (%)",
    "model/parameters": "parameters",
    "panoptic_seg/PQ": "panoptic quality (%)",
    "rate/bpp": "bits per pixel",
    "rate/channels": "channels",
    "rate/kB": "kB per image",
    "rate/ms_ssim": "MS-SSIM",
    "rate/perceptual": "perceptual distance",
    "rate/psnr": "PSNR (dB)",
    "segm/AP": "mask AP (%)",
    "segm/AP50": "mask AP at IoU 0.5 (%)",
    "sem_seg/IoU": "mIoU (%)",
    "sem_seg/fwIoU": "frequency-weighted IoU (%)",
    "sem_seg/mIoU": "mIoU (%)",
    "sem_seg/pACC": "pixel accuracy (%)",
    "time/encode_ms": "time from image to file (ms)",
    "time/result_ms": "time from file to result (ms)",
}  # of values in plots


def results_path(model: str | Path) -> Path:
    """Return the path of `results.json` of a training, named by its folder or a file in it.

    Raises:
        FileNotFoundError: if there are no results.
    """
    path = Path(model)
    path = (path.parent if path.is_file() else path) / RESULTS
    if not path.is_file():
        raise FileNotFoundError(f"there are no results {path}: has the training ended?")
    return path


def read_tables(model: str | Path) -> dict[str, dict[str, Any]]:
    """Read the results of a trained model, such as `{"rate": {"bpp": 0.25}}`.

    Args:
        model: a training's folder or a file in it; or a name of the zoo.

    Raises:
        FileNotFoundError: if the folder has no results.
        CdlError: if they are corrupted.
    """
    if not Path(model).exists() and str(model) in model_zoo.names():
        return metrics.card_tables(model_zoo.card(str(model)).metrics)
    return metrics.read_tables(results_path(model))


def read_value(model: str | Path, key: str) -> float:
    """Read a result of a trained model.

    Args:
        model: as `read_tables` takes it.
        key: such as `rate/bpp`, or `val/rate/bpp` of one of several data sets.

    Raises:
        FileNotFoundError, CdlError: if there are no usable results, or they lack the key.
    """
    values = metrics.flat_values(read_tables(model))
    value = values.get(key)
    if value is None:
        raise CdlError(f"{model} has no {key!r}; it has {', '.join(values) or 'no results'}")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise CdlError(f"{model} has {value!r} for {key!r}, which is no finite number")
    return value


def value_label(key: str) -> str:
    """Return what the axis of a plot is called: a quantity and its unit.

    Args:
        key: as `read_value` takes it; an unknown one is returned as it is.
    """
    dataset, _, name = key.rpartition("/")[0].rpartition("/")
    short_key = f"{name}/{key.rpartition('/')[2]}"
    if short_key not in LABELS:
        return key
    return f"{LABELS[short_key]}, {dataset}" if dataset else LABELS[short_key]
