"""`cdl count`."""

from __future__ import annotations

import json as json_format

from cdl_d2.cli.options import (
    Json,
    Model,
    Overrides,
    find_lazy_model,
    is_named_or_converted,
    load_config,
)
from cdl_d2.cli.output import print_rows


def count(
    model: Model,
    /,
    *overrides: Overrides,
    size: tuple[int, int] | None = None,
    json: Json = False,
) -> None:
    """Count the multiply-adds of a model's parts.

    ```
    cdl count detection/latent_mask_rcnn_R50_FPN.yaml --size 800 1280
    cdl count classification/latent_resnet50.yaml
    cdl count lazy/latent_mask_rcnn_vitdet_b_100ep.py --size 1024 1024
    cdl count timm/tf_efficientnet_lite0
    ```

    Prints GMACs (10^9 multiply-adds); with `--json`, an object of multiply-adds.

    Args:
        size: Height and width of the image in pixels, multiples of 32; default 800 1280, and of a
            classifier INPUT.IMAGE_SIZE. Of networks of torchvision and timm any size; default that
            of their crops.
    """
    if is_named_or_converted(model, overrides):
        from cdl_d2.bench.networks import count_parts, network_parts

        counts = count_parts(network_parts(model, size))
    elif lazy := find_lazy_model(model, overrides):
        from cdl_d2.bench.counts import DETECTION_SIZE, count_lazy_model

        counts = count_lazy_model(lazy, size or DETECTION_SIZE)
    else:
        cfg = load_config(model, (*overrides, "MODEL.DEVICE", "cpu"))  # where it is counted
        from cdl_d2.bench.counts import count_multiply_adds, usual_size

        counts = count_multiply_adds(cfg, size or usual_size(cfg))
    if json:
        print(json_format.dumps(counts))
        return
    print_rows([{"part": part, "GMACs": count / 1e9} for part, count in counts.items()])
