"""Fitting a linear bridge before its network trains."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from tqdm import tqdm

from cdl_d2.d2.modeling.meta_arch.compressed_model import CompressedModel
from cdl_d2.errors import CdlError
from cdl_d2.nn.coded_input import image_size_of
from cdl_d2.nn.linear_bridge import LinearBridge
from cdl_d2.transfer import teachers_view


def fit_bridge(model: CompressedModel, items: Iterable[dict[str, Any]], count: int) -> float | None:
    """Fit the model's linear bridge, if it has one that is not fitted yet.

    Args:
        items: of training batches, each with its `image`; see CompressedModel.encode.
        count: how many of them.

    Returns:
        What LinearBridge.fit does, or None if there was nothing to fit.

    Raises:
        CdlError: for an item without image; see LinearBridge.fit.
    """
    waiting = [m for m in model.modules() if isinstance(m, LinearBridge) and not m.is_fitted]
    if not waiting:
        return None
    (bridge,) = waiting
    logger, started = logging.getLogger(__name__), time.perf_counter()
    shown = tqdm(islice(items, count), total=count, desc="fit bridge", unit="image")
    explained = bridge.fit(_pairs(model, shown))
    if not torch.isfinite(bridge.reduce.weight).all():
        raise CdlError("the fitted bridge is not finite: are the pixel network's weights?")
    logger.info(
        f"the bridge explains {100 * explained:.1f} % of the variance of the first convolution "
        f"({time.perf_counter() - started:.0f} s)"
    )
    return explained


@torch.no_grad()
def _pairs(
    model: CompressedModel, items: Iterable[dict[str, Any]]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for item in items:
        (encoded,) = model.select(model.encode([item]))
        y_hat = encoded["latent"].to(model.device)[None]
        size, padded = image_size_of(encoded), model.coded_input.padded_size(y_hat)
        yield y_hat, teachers_view([item], [size], padded, model.normalized)
