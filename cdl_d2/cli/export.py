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
    """Write a trained model's network as ONNX or torch.export graphs, to run without this package.

    ```
    cdl export output/converted --format onnx --output exported
    cdl export output/student/model_final.pth --format torch --output exported
    ```

    `backbone` leads from a latent, or normalized pixels, to a pyramid of features, or to the logits
    of a segmentor or classifier; `rpn`, `box`, `mask` or `head` are a detector's heads. `card.json`
    says what goes in and comes out, and what is left to do outside. Each graph is run as it was
    written and compared with the model: nothing is left of an export that differs.

    Args:
        output: Folder to make.
        format: `onnx`, or `torch` for `.pt2` files.
        size: Height and width in pixels, for graphs of only this size; default any size, if the
            network allows it.
    """
    if size is not None and min(size) < 1:
        raise CdlError(f"--size {size[0]} {size[1]}: at least 1 pixel a side")
    from cdl_d2.export import export_model
    from cdl_d2.prediction.loading import load_model

    export_model(load_model(model, "cpu").export_graphs, format, output, size, print)
    print(f"{output / 'card.json'}: what goes in, what comes out, and what is left to do outside")
