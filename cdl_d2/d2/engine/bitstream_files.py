"""Image files coded for a trained model: the channels that it looks at first."""

from __future__ import annotations

from pathlib import Path

from cdl_d2.codec.bitstream.layers import Layers
from cdl_d2.codec.coded_files import FileCompressor
from cdl_d2.codec.image_files import read_image
from cdl_d2.d2.engine.bitstreams import codec_of, compress_for
from cdl_d2.d2.engine.trained import evaluation_mapper, load_trained


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
            image = model.coded_input.swap(read_image(path))
        else:
            image = mapper({"file_name": str(path)})["image"]
        return compress_for(model, image, with_rest)

    return FileCompressor(layers_of)
