"""Fitting the bridge of a whole network to images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from cdl_d2.codec.latent import STRIDE, CodecIdentity
from cdl_d2.errors import CdlError
from cdl_d2.nn.bridge.latent_translation import LatentTranslation
from cdl_d2.nn.bridge.linear_bridge import LinearBridge

FIT_IMAGES = 200  # that a fit is made of, if nobody says how many


def fit_bridge(
    network: nn.Module,
    items: Iterable[dict[str, Any]],
    count: int,
    encode: Callable[[dict[str, Any]], dict[str, Any]],
    normalize: Callable[[torch.Tensor], torch.Tensor],
    encode_by_all: Callable[[dict[str, Any]], Mapping[CodecIdentity, torch.Tensor]],
) -> float | None:
    """Fit the linear bridge of a network, if it has one that is not fitted yet; before it, what
    translates the latents of several codecs.

    Args:
        items: of batches, each with its `image`, 3 x H x W.
        count: how many of them.
        encode: adds `latent`, M x h x w, as the network reads it.
        normalize: from an image to what the pixel network reads of it.
        encode_by_all: the latents of several codecs, see CodedInput.encode_by_all.

    Returns:
        What LinearBridge.fit does; None if there is nothing to fit.

    Raises:
        CdlError: for an item without image; see LinearBridge.fit.
    """
    waiting = [m for m in network.modules() if isinstance(m, LinearBridge) and not m.is_fitted]
    if not waiting:
        return None
    (bridge,) = waiting
    if count < 1:
        raise CdlError(
            f"a bridge is fitted to {count} images (MODEL.BRIDGE.FIT_IMAGES): at least 1"
        )
    items = map(_with_image, islice(items, count))
    for translation in (m for m in network.modules() if isinstance(m, LatentTranslation)):
        items = list(items)  # they are read twice
        progress = tqdm(items, desc="fit the translation of latents", unit="image")
        translation.fit(map(encode_by_all, progress))

    def pairs() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for item in tqdm(items, total=count, desc="fit bridge", unit="image"):
            y_hat, pixels = (
                encode(item)["latent"].to(bridge.weight.device),
                normalize(item["image"]),
            )
            height, width = (side * STRIDE for side in y_hat.shape[1:])
            room = (0, width - pixels.shape[2], 0, height - pixels.shape[1])
            yield y_hat[None], F.pad(pixels, room)[None]

    with torch.no_grad():
        explained = bridge.fit(pairs())
    logging.getLogger(__name__).info(
        f"the bridge explains {100 * explained:.1f} % of the variance of the first convolution"
    )
    return explained


def _with_image(item: dict[str, Any]) -> dict[str, Any]:
    if "image" not in item:
        raise CdlError(
            "a bridge is fitted to images, and a batch item has none: keep 'image' beside 'latent' "
            "until it is fitted"
        )
    return item
