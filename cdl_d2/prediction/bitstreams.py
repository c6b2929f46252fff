"""Both ends of a bitstream for a trained model: what a sender writes, what a receiver reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from cdl_d2.codec import Bitstream, Codec
from cdl_d2.codec.bitstream.layers import Layers, compress_layers
from cdl_d2.codec.file_compressor import FileCompressor, Measure
from cdl_d2.codec.io.image_files import read_image
from cdl_d2.errors import CdlError
from cdl_d2.prediction.models import PredictionModel


def get_codec(network: nn.Module) -> Codec:
    """Return the codec whose bitstreams a network reads, on the network's device.

    Raises:
        CdlError: if the network takes original images as input.
    """
    coded_input = getattr(network, "coded_input", None)
    if coded_input is None or coded_input.codec is None:
        raise CdlError(f"a {type(network).__name__} on original images reads no bitstreams")
    return coded_input.codec_on(network.device)


@torch.no_grad()
def compress_for(network: nn.Module, image: torch.Tensor, with_enhancement: bool = True) -> Layers:
    """Compress an image for a network: the channels that it selects go into the base layer.

    Args:
        network: in eval mode.
        image: 3 x H x W in 0..255, channels in the network's order.
        with_enhancement: whether to code the other channels, as enhancement layer.

    Returns:
        both layers; without a channel selection a single bitstream with all channels.

    Raises:
        CdlError: if the network reads no bitstreams, or its codec cannot code some channels only.
    """
    codec = get_codec(network)
    pixels = network.coded_input.swap(image.to(network.device).float() / 255)
    selection = getattr(network, "selection", None)
    if selection is None:
        return Layers(codec.compress(pixels))

    def choose(y_hat: torch.Tensor) -> list[int]:
        choice = selection.choose({"latent": y_hat.to(network.device)})
        return choice.nonzero()[:, 0].tolist()

    return compress_layers(codec, pixels, choose, with_enhancement)


@torch.no_grad()
def read_stream(network: nn.Module, stream: Bitstream) -> dict[str, Any]:
    """Read a bitstream, or the base layer of one, into a sample of the network's batch.

    Raises:
        CdlError: if the network reads no bitstreams, or those of another codec.
    """
    get_codec(network)
    return network.coded_input.read(stream, network.device)


class _Encoder:
    """Function from an image file to the image, resized for a model, and its layers."""

    def __init__(self, model: PredictionModel, with_enhancement: bool, as_is: bool):
        self._model, self._with_enhancement, self._as_is = model, with_enhancement, as_is

    def __call__(self, path: Path) -> tuple[torch.Tensor, Layers]:
        model, image = self._model, read_image(path)
        pixels = image if self._as_is else model.resize(image)
        swapped = model.coded_input.swap(pixels)
        layers = compress_for(model.network, swapped, self._with_enhancement)
        if not (self._as_is or model.task.of_one_size):  # a classifier's crop is no resized image
            layers = layers.resized_from(tuple(image.shape[1:]))
        return pixels.to(model.network.device).float() / 255, layers


def compressor_for(
    model: PredictionModel,
    with_enhancement: bool = True,
    as_is: bool = False,
    measure: Measure | None = None,
) -> FileCompressor:
    """Build the compressor of image files for a model.

    Args:
        model: model that takes latents or reconstructions.
        with_enhancement: whether to write the enhancement layer, to decode the image.
        as_is: keep the size of images, instead of resizing or cropping them as in evaluation.
        measure: function that measures the quality of reconstructions; None for no measurement.

    Raises:
        CdlError: if the model takes original images as input, or rounded latents.
    """
    codec = get_codec(model.network)
    _ = codec.cpu_coder  # raises now, and not for each image
    return FileCompressor(codec, _Encoder(model, with_enhancement, as_is), measure)
