"""What detection costs: multiply-adds, and time from a bitstream to detections."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from cdl_d2.bench.multiply_adds import count_network
from cdl_d2.bench.quickstart.page import Cost
from cdl_d2.codec import Codec, latent_grid
from cdl_d2.codec.io.image_files import read_image
from cdl_d2.prediction.models import PredictionModel


@torch.no_grad()
def measure_costs(
    codec: Codec,
    pixel_model: PredictionModel,
    latent_model: PredictionModel,
    images: list[Path],
) -> tuple[Cost, Cost]:
    """Costs of decoding and then detecting, and of detecting on latents, on the CPU.

    Both are measured in turn on each image, after one for warming up.
    """
    pixel_detector, latent_detector = pixel_model.network, latent_model.network
    seconds: list[tuple[float, float]] = []
    streams = [codec.compress(read_image(path).float() / 255) for path in images]
    for stream in tqdm([streams[0], *streams], desc="time", unit="image"):
        pair = []
        for decode in (True, False):
            start = time.perf_counter()
            if decode:
                y_hat = codec.read_symbols(stream).y_hat
                pixels = torch.round(codec.reconstruct(y_hat, stream.image_size) * 255)
                height, width = stream.image_size
                item = {"image": pixel_model.coded_input.swap(pixels)}
                pixel_detector([item | {"height": height, "width": width}])
            else:
                latent_detector([latent_model.coded_input.read(stream)])
            pair.append(time.perf_counter() - start)
        seconds.append((pair[0], pair[1]))
    decoded_ms, latent_ms = (1000 * statistics.median(s) for s in zip(*seconds[1:], strict=True))
    decoded, latent = count_costs(codec, pixel_detector, latent_detector, streams[0].image_size)
    return Cost(decoded / 1e9, decoded_ms), Cost(latent / 1e9, latent_ms)


def count_costs(
    codec: Codec, pixel_detector: nn.Module, latent_detector: nn.Module, size: tuple[int, int]
) -> tuple[int, int]:
    """Multiply-adds of decoding with a pixel backbone, and of a latent backbone."""
    y_hat = torch.zeros(1, codec.latent_channels, *latent_grid(size))
    pixels = count_network(pixel_detector.backbone, torch.zeros(1, 3, *size))
    decoder = count_network(codec.network.g_s, y_hat)
    return decoder + pixels, count_network(latent_detector.backbone, y_hat)
