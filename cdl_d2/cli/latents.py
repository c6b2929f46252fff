"""`cdl latents`: statistics of latents, and selections of their channels."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Literal

from cyclopts import App

from cdl_d2.cli.options import (
    NO_DATASETS,
    Datasets,
    Json,
    Model,
    Overrides,
    Positive,
    load_config,
)
from cdl_d2.errors import CdlError

app = App(name="latents", help="Statistics of latents, and selections of their channels.")


@app.command
def statistics(
    model: Model,
    /,
    *overrides: Overrides,
    output: Path,
    images: Positive = 500,
    datasets: Datasets = NO_DATASETS,
) -> None:
    r"""Compute mean and standard deviation of each latent channel over training images.

    ```
    cdl latents statistics detection/latent_mask_rcnn_R50_FPN.yaml --images 500 \
        --output statistics.safetensors
    ```

    A training reads the file as MODEL.LATENT_RESNET.STATISTICS; its checkpoint keeps the values.

    Args:
        output: File to write, .safetensors.
        images: Number of training images.
    """
    from cdl_d2.d2.applications.latents import write_statistics

    mean, std = write_statistics(load_config(model, overrides, datasets), images, output)
    print(f"{output}: {len(mean)} channels, standard deviation {std.min():.3f} to {std.max():.3f}")


@app.command
def select(
    model: Model,
    /,
    *overrides: Overrides,
    count: Positive | None = None,
    output: Path | None = None,
    by: Literal["gate", "variance"] = "gate",
    images: Positive | None = None,
    json: Json = False,
    datasets: Datasets = NO_DATASETS,
) -> None:
    """Rank latent channels for a static selection, by a trained gate or by variance.

    ```
    cdl latents select output/gate --output selection.json
    cdl latents select output/gate --count 32 --by variance
    ```

    Counts how often the gate of a model keeps each channel on the training data (empty channels do
    not count), or computes the variance of each (the baseline of Wang et al., 2022). Prints the
    `--count` first channels, for `cdl codec compress` and as config overrides; writes all, in
    order, to `--output`, for `MODEL.SELECTION.FILE`, of which `MODEL.SELECTION.COUNT` are kept.

    Args:
        count: Number of channels to print.
        output: File to write, .json.
        by: Ranking criterion: how often the gate keeps a channel, or its variance.
        images: Number of training images; default all.
    """
    if count is None and output is None:
        raise CdlError("give --count, how many channels to print, or --output, a file to write")
    from cdl_d2.d2.applications.latents import rank_channels

    ranking = rank_channels(load_config(model, overrides, datasets), by, images, count)
    kept = list(ranking.channels) if count is None else ranking.top_channels(count)
    if output is not None:
        ranking.save(output)
    if json:
        print(json_format.dumps(kept))
    elif count is None:
        print(f"{output}: {len(kept)} channels by {by}, first {', '.join(map(str, kept[:8]))}")
    else:
        print("--channels " + ",".join(map(str, kept)))
        print(f'MODEL.SELECTION.KIND fixed MODEL.SELECTION.CHANNELS "{kept}"')
