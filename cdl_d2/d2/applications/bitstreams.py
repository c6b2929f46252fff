"""Compress images for a trained model, and read their bitstreams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cdl_d2.codec import Bitstream, Codec
from cdl_d2.codec.bitstream.layers import Layers, compress_layers
from cdl_d2.codec.coded_files import FileCompressor
from cdl_d2.codec.io.image_files import read_image
from cdl_d2.d2.applications.trained import evaluation_mapper, load_trained
from cdl_d2.d2.modeling.meta_arch.compressed_model import CompressedModel
from cdl_d2.errors import CdlError


@torch.no_grad()
def compress_for(
    model: CompressedModel, image: torch.Tensor, with_enhancement: bool = True
) -> Layers:
    """Compress an image for a model: the channels that it selects become the base layer.

    Args:
        model: in eval mode.
        image: 3 x H x W in 0..255, channels in the model's order.
        with_enhancement: whether to code the other channels in an enhancement layer.

    Returns:
        the layers; for a model without a selection one bitstream with all channels.

    Raises:
        CdlError: if the model takes original images; as `compress_layers`.
    """
    codec = codec_of(model)
    pixels = model.coded_input.swap(image.to(model.device).float() / 255)
    if model.selection is None:
        return Layers(codec.compress(pixels))

    def choose(cells: torch.Tensor) -> list[int]:
        choice = model.selection.choose({"latent": cells.to(model.device)})
        return choice.nonzero()[:, 0].tolist()

    return compress_layers(codec, pixels, choose, with_enhancement)


@torch.no_grad()
def read_stream(model: CompressedModel, stream: Bitstream) -> dict[str, Any]:
    """Return a bitstream or base layer as a sample of the model's batch.

    Raises:
        CdlError: if the model takes original images; as `CodedInput.read`.
    """
    codec_of(model)  # an error that names the kind of model
    return model.coded_input.read(stream, model.device)


def codec_of(model: CompressedModel) -> Codec:
    """Return the codec whose bitstreams a model reads.

    Raises:
        CdlError: if it takes original images.
    """
    if not isinstance(model, CompressedModel):
        raise CdlError(f"a {type(model).__name__} takes original images and reads no bitstreams")
    return model.coded_input.codec_on(model.device)


def compressor_for(
    run: Path, device: str, with_enhancement: bool = True, as_is: bool = False
) -> FileCompressor:
    """Build a FileCompressor for the model in a training's output folder.

    Args:
        run: output folder.
        device: device of the model.
        with_enhancement: whether to code the channels that the model does not select.
        as_is: whether to skip the resizing and cropping of the model's evaluation.

    Raises:
        CdlError, OSError: if there is no such model, or it takes original images.
    """
    model = load_trained(run, device)
    codec_of(model)  # raises for a model of original images
    mapper = evaluation_mapper(run)

    def encode(path: Path) -> Layers:
        if as_is:
            return compress_for(model, model.coded_input.swap(read_image(path)), with_enhancement)
        item = mapper({"file_name": str(path)})
        layers = compress_for(model, item["image"], with_enhancement)
        if "height" in item:  # absent for a classifier's crop
            layers = layers.resized_from((item["height"], item["width"]))
        return layers

    return FileCompressor(encode)
