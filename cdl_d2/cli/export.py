"""`cdl export`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cdl_d2.cli.options import Model
from cdl_d2.errors import CdlError


def export(
    model: Model,
    /,
    *,
    output: Path,
    format: Literal["onnx", "torch"] = "onnx",
    size: tuple[int, int] | None = None,
) -> None:
    """Export a trained model to ONNX or torch.export graphs, which run without this package.

    ```
    cdl export output/converted --format onnx --output exported
    cdl export output/student/model_final.pth --format torch --output exported
    ```

    `detector.onnx` maps the latent of an image (or normalized pixels) to boxes, scores, classes and
    masks, `encoder.onnx` an image to its latent. The others are parts for runtimes without
    non-maximum suppression: `backbone` ends in a pyramid of features, or in the logits of a
    segmentation model or classifier; `rpn`, `box`, `mask` and `head` are heads of detectors.
    `card.json` describes all inputs and outputs. Each graph is run and compared with the model; an
    export that differs is removed.

    Args:
        output: Folder to make.
        format: `onnx`, or `torch` for `.pt2` files of the parts.
        size: Height and width in pixels that the graphs are limited to; default any size, if the
            network allows it.
    """
    if size is not None and min(size) < 1:
        raise CdlError(f"--size {size[0]} {size[1]}: at least 1 pixel per side")
    from cdl_d2.export import export_model
    from cdl_d2.prediction.loading import load_model

    export_model(load_model(model, "cpu").export_graphs, format, output, size, print)
    print(f"{output / 'card.json'}: inputs and outputs of the graphs")
