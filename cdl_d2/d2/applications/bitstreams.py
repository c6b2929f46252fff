"""A trained model at both ends of a bitstream: what a sender writes, and what a receiver reads."""

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
def compress_for(model: CompressedModel, image: torch.Tensor, with_rest: bool = True) -> Layers:
    """Code an image for a model: the channels that it looks at first.

    Args:
        model: in eval mode.
        image: 3 x H x W in 0..255, channels in the model's order.
        with_rest: whether to code the other channels, in a second layer.

    Returns:
        the two layers; of a model without a selection one bitstream with everything.

    Raises:
        CdlError: if the model looks at original images; see compress_layers.
    """
    codec = codec_of(model)
    pixels = model.coded_input.swap(image.to(model.device).float() / 255)
    if model.selection is None:
        return Layers(codec.compress(pixels), None)

    def choose(cells: torch.Tensor) -> list[int]:
        choice = model.selection.choose({"latent": cells.to(model.device)})
        return choice.nonzero()[:, 0].tolist()

    return compress_layers(codec, pixels, choose, with_rest)


@torch.no_grad()
def read_stream(model: CompressedModel, stream: Bitstream) -> dict[str, Any]:
    """A bitstream, or the first layer of one, as an item of the model's batch.

    Raises:
        CdlError: if the model looks at original images; see CodedInput.read.
    """
    codec_of(model)  # an error that names the kind of model
    return model.coded_input.read(stream, model.device)


def codec_of(model: CompressedModel) -> Codec:
    """The codec whose bitstreams a model reads.

    Raises:
        CdlError: if it looks at original images.
    """
    if not isinstance(model, CompressedModel):
        raise CdlError(f"a {type(model).__name__} looks at original images and reads no bitstreams")
    return model.coded_input.codec_on(model.device)


def compressor_for(
    run: Path, device: str, with_rest: bool = True, as_is: bool = False
) -> FileCompressor:
    """Codes for the model of a training's output folder.

    Args:
        with_rest: whether to write the other channels too, with which the image can be had.
        as_is: neither resize nor crop images as in the model's evaluation.

    Raises:
        CdlError, OSError: if there is no such model, or it looks at original images.
    """
    model = load_trained(run, device)
    codec_of(model)  # an error now, not once for every image
    mapper = evaluation_mapper(run)

    def layers_of(path: Path) -> Layers:
        if as_is:
            return compress_for(model, model.coded_input.swap(read_image(path)), with_rest)
        item = mapper({"file_name": str(path)})
        layers = compress_for(model, item["image"], with_rest)
        if "height" in item:  # a classifier's crop is no resized image
            layers = layers.resized_from((item["height"], item["width"]))
        return layers

    return FileCompressor(layers_of)
