"""Fit of a network's bridge to images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from cdl_d2.codec.latent import CodecIdentity
from cdl_d2.device import device_of
from cdl_d2.errors import CdlError
from cdl_d2.nn.bridge.bridge import Bridge
from cdl_d2.nn.bridge.latent_translation import LatentTranslation
from cdl_d2.nn.bridge.linear_bridge import LinearBridge

FIT_IMAGES = 200  # default number of images


def fit_bridge(
    network: nn.Module,
    samples: Iterable[dict[str, Any]],
    count: int,
    encode: Callable[[dict[str, Any]], dict[str, Any]],
    normalize: Callable[[torch.Tensor], torch.Tensor],
    encode_by_all: Callable[[dict[str, Any]], Mapping[CodecIdentity, torch.Tensor]],
    run_stage: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> float | None:
    """Fit a network's linear bridge, unless it has none or a fitted one; or its Bridge to a stage.

    A LatentTranslation before the bridge is fitted first. The first `count` samples are used, each
    with `image`, 3 x H x W. `encode` adds `latent`, M x h x w, as the network reads it, `normalize`
    maps an image to the RGB model's input, and `encode_by_all` returns a latent by each codec. For
    a Bridge, `run_stage` maps a batch of such inputs to the RGB model's features that it replaces.

    Returns:
        the share of the first convolution's or the stage's variance that the bridge explains, at
        most 1; None if there is nothing to fit.

    Raises:
        CdlError: for a sample without image, too few images, or images that do not fit the bridge.
    """
    unfitted = [
        m
        for m in network.modules()
        if (isinstance(m, LinearBridge) and not m.is_fitted)
        or (isinstance(m, Bridge) and m.can_be_fitted and run_stage)
    ]
    if not unfitted:
        return None
    (bridge,) = unfitted
    stride = bridge.stride if isinstance(bridge, Bridge) else bridge.stride[0]
    if count < 1:
        raise CdlError(f"a bridge cannot be fitted to {count} images: give at least 1")
    samples = map(_require_image, islice(samples, count))
    for translation in (m for m in network.modules() if isinstance(m, LatentTranslation)):
        samples = list(samples)  # read twice
        progress = tqdm(samples, desc="fit the translation of latents", unit="image")
        translation.fit(map(encode_by_all, progress))

    def pairs() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for sample in tqdm(samples, total=count, desc="fit bridge", unit="image"):
            y_hat = encode(sample)["latent"].to(device_of(bridge))
            pixels = normalize(sample["image"])
            bottom, right = (-side % stride for side in pixels.shape[1:])  # as in a batch
            pixels = F.pad(pixels, (0, right, 0, bottom))[None]
            yield y_hat[None], run_stage(pixels) if isinstance(bridge, Bridge) else pixels

    with torch.no_grad():
        explained = bridge.fit(pairs())
    logging.getLogger(__name__).info(
        f"the bridge explains {100 * explained:.1f} % of the variance of what it replaces"
    )
    return explained


def _require_image(sample: dict[str, Any]) -> dict[str, Any]:
    if "image" not in sample:
        raise CdlError(
            "a bridge is fitted to images, and a sample has none: keep 'image' beside 'latent' "
            "until it is fitted"
        )
    return sample
