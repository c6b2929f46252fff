"""Multiply-adds and times of networks of torchvision and timm, RGB or converted to latents."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from cdl_d2.codec import Codec
from cdl_d2.codec.latent import pad_for_coding
from cdl_d2.conversion.image_network import ImageNetwork
from cdl_d2.conversion.latent_network import LatentNetwork
from cdl_d2.conversion.named_networks import build_named_network, is_named_network
from cdl_d2.conversion.network_model import NetworkConfig
from cdl_d2.conversion.preprocessing import Preprocessing
from cdl_d2.prediction.loading import load_model

DETECTION_SIZE = (800, 1280)  # of networks that crop no images
RANGE = (0.0,) * 3, (1.0,) * 3  # mean and standard deviation, on which no cost depends
Parts = dict[str, Callable[[], object]]


@torch.no_grad()
def network_parts(model: str, size: tuple[int, int] | None = None, device: str = "cpu") -> Parts:
    """Return the parts of a network's cost on a random image: coding, RGB and converted network.

    Args:
        model: name of a network, which gets random weights, or a converted one.
        size: (H, W) of the image in pixels; default the network's own, or DETECTION_SIZE.
        device: `cpu` or `cuda`.

    Returns:
        `pixel_network`, and of a converted one `encode` and `decode` of the latent (the transforms
        alone) and, unless it reads reconstructions, `latent_network`.

    Raises:
        CdlError, FileNotFoundError: for an unknown network, or one that does not run on this size.
    """
    codec, config, converted = _read_model(model)
    name, outputs = (config.network, len(config.outputs)) if config else (model, None)
    network = build_named_network(name, outputs)
    preprocessing = config.preprocessing if config else Preprocessing.of_network(network, *RANGE)
    side = preprocessing.crop
    size = size or ((side, side) if side else DETECTION_SIZE)
    rgb = ImageNetwork(network, preprocessing).to(device)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    rgb.check_image(image)
    parts: Parts = {"pixel_network": lambda: rgb.run([image])}
    if codec is None:
        return {name: torch.no_grad()(part) for name, part in parts.items()}
    codec = codec.on(torch.device(device))
    pixels = pad_for_coding(image.to(device)[None].float() / 255)
    latent = codec.network.g_a(pixels)
    parts |= {
        "encode": lambda: codec.network.g_a(pixels),
        "decode": lambda: codec.network.g_s(latent),
    }
    if converted is not None:
        converted.to(device)
        parts["latent_network"] = lambda: converted(latent, [size])
    return {name: torch.no_grad()(part) for name, part in parts.items()}


def _read_model(
    model: str,
) -> tuple[Codec | None, NetworkConfig | None, LatentNetwork | None]:
    """Return codec and config of a converted network, and itself if it reads latents."""
    if is_named_network(model):
        return None, None, None
    network = load_model(model, "cpu").network
    config, runner = network.config, network.runner
    codec = config.codec and config.codec.load()
    return codec, config, runner if isinstance(runner, LatentNetwork) else None


def count_parts(parts: Parts) -> dict[str, int]:
    """Count the multiply-adds of convolutions and matrix products of each part."""
    counts = {}
    for name, run in parts.items():
        with FlopCounterMode(display=False) as counter:
            run()
        counts[name] = counter.get_total_flops() // 2
    return counts
