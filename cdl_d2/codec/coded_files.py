"""Compress image files to bitstream files, and decompress these to PNG."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from cdl_d2.codec.bitstream.compressai_file import load_bitstream
from cdl_d2.codec.bitstream.layers import (
    Layers,
    channel_mask,
    check_layered,
    compress_layers,
    decompress_layers,
)
from cdl_d2.codec.bitstream.stream import (
    BASE,
    ENHANCEMENT_SUFFIXES,
    SUFFIX,
    Bitstream,
    BitstreamError,
    base_path,
    enhancement_paths,
)
from cdl_d2.codec.choice import CodecChoice
from cdl_d2.codec.codec import Codec
from cdl_d2.codec.file_compressor import FileCompressor, Measure, coming_enhancement_path
from cdl_d2.codec.io.image_files import find_images, read_image, write_png
from cdl_d2.codec.io.output_paths import output_paths
from cdl_d2.codec.latent import Latent, is_aligned
from cdl_d2.errors import CdlError

CHANNELS_LIMIT = 2**16


def bitstream_paths(images: Sequence[Path], output: Path | None, force: bool) -> dict[Path, Path]:
    """Return the bitstream file of each image, `output_paths` for its errors.

    Args:
        images: files; or folders, for all images under them, which keep their relative paths.
        output: folder; None to write beside each image.
        force: whether existing files may be replaced.
    """
    names = {}
    for path in images:
        if path.is_dir():
            names |= {image: image.relative_to(path) for image in find_images(path)}
        else:
            names[path] = Path(path.name)
    return output_paths(names, output, (SUFFIX, *ENHANCEMENT_SUFFIXES), force)


def picture_paths(streams: Sequence[Path], output: Path | None, force: bool) -> dict[Path, Path]:
    """Return the PNG file of each bitstream, except of enhancement layers.

    Raises:
        CdlError: for an enhancement layer without its base layer.
        CdlError, OSError: as `output_paths`.
    """
    names = {}
    for path in streams:
        base = base_path(path)
        if base is None:
            names[path] = Path(path.name)
        elif base not in streams:
            raise CdlError(f"{path} is an enhancement layer: give its base layer {base} too")
    return output_paths(names, output, (".png",), force)


class _Encoder:
    """Function from an image file to the image and its layers, with chosen channels if any."""

    def __init__(self, codec: Codec, selection: list[int] | None):
        self._codec, self._selection = codec, selection

    def __call__(self, path: Path) -> tuple[torch.Tensor, Layers]:
        device = next(self._codec.parameters()).device
        image = read_image(path).to(device).float() / 255
        if self._selection is None:
            return image, Layers(self._codec.compress(image))
        return image, compress_layers(self._codec, image, self._selection)


def build_compressor(
    codec: Codec, channels: str | None = None, measure: Measure | None = None
) -> FileCompressor:
    """Build a FileCompressor for a codec.

    Args:
        codec: codec with dequantized latents.
        channels: channels of the base layer, such as `0-31,40`; None for one bitstream with all.
        measure: function that measures the quality of reconstructions; None for no measurement.

    Raises:
        CdlError: for channels that the codec does not have or cannot code alone; for a codec with
            rounded latents.
    """
    _ = codec.cpu_coder  # raises for rounded latents
    selection = None if channels is None else parse_channels(channels)
    if selection is not None:
        check_layered(codec)
        channel_mask(codec.latent_channels, selection)
    return FileCompressor(codec, _Encoder(codec, selection), measure)


def decompress_file(path: Path, target: Path, weights: str, device: str) -> None:
    """Decompress a bitstream file, also CompressAI's, with the codec that wrote it, to a PNG file.

    Args:
        path: bitstream; its enhancement layer is beside it.
        target: PNG file.
        weights: file of the codec's weights; empty for the zoo's or the package's.
        device: device of the codec.

    Raises:
        BitstreamError, OSError: if a file cannot be read or written; if a layer is missing.
    """
    stream = load_bitstream(path)
    identity = stream.codec
    choice = CodecChoice(identity.name, identity.quality, identity.metric, weights)
    codec = choice.load().on(device)
    if stream.coding == BASE:
        latent = _decompress_layers(codec, path, stream)
    else:
        latent = codec.decompress(stream)
    image = torch.round(codec.decode(latent.to(device)) * 255).byte().cpu()
    write_png(target, image.permute(1, 2, 0).numpy())


def _decompress_layers(codec: Codec, path: Path, base: Bitstream) -> Latent:
    """Return the latent of a base layer and the enhancement layer beside it."""
    temporary = coming_enhancement_path(path)
    if temporary.is_file():  # the writer was killed between the two layers
        with suppress(BitstreamError):
            return decompress_layers(codec, base, Bitstream.load(temporary))
    paths = enhancement_paths(path)
    existing = next((enhancement for enhancement in paths if enhancement.is_file()), None)
    try:
        return decompress_layers(codec, base, existing and Bitstream.load(existing))
    except BitstreamError as error:
        location = f"in {existing}" if existing else f"there is no {paths[0]}"
        raise BitstreamError(f"{path}: {error} ({location})") from error


def describe_bitstream(path: Path) -> dict[str, str | int | float]:
    """Return the contents of a bitstream file's header, and whether latent models can read it.

    Raises:
        BitstreamError, OSError: if the file cannot be read.
    """
    stream = load_bitstream(path)
    (height, width), (coded_height, coded_width) = stream.image_size, stream.coded_size
    size = path.stat().st_size
    return {
        "file": str(path),
        "codec": stream.codec.name,
        "quality": stream.codec.quality,
        "metric": stream.codec.metric,
        "weights": stream.codec.weights or "unknown",
        "coding": stream.coding,
        "width": width,
        "height": height,
        "original width": stream.result_size[1],
        "original height": stream.result_size[0],
        "top": stream.padding[0],
        "left": stream.padding[1],
        "latent models": "yes" if is_aligned(stream.padding) else "no",
        "coded width": coded_width,
        "coded height": coded_height,
        "bytes": size,
        "strings": " + ".join(str(len(string)) for string in stream.strings),
        "bpp": 8 * size / (height * width),
        "bits per coded pixel": 8 * size / (coded_height * coded_width),
    }


def parse_channels(text: str) -> list[int]:
    """Parse a list of channels such as `0-31,40`.

    Raises:
        CdlError: for any other text.
    """
    channels: list[int] = []
    for part in text.split(","):
        span = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", part)
        if span is None:
            raise CdlError(f"channels {text!r} are not of the form 0-31,40")
        first, last = int(span[1]), int(span[2] or span[1])
        if last < first:
            raise CdlError(f"channels {text!r}: {part} goes backwards")
        if last >= CHANNELS_LIMIT:
            raise CdlError(f"channels {text!r}: no codec has channel {last}")
        channels += range(first, last + 1)
    return channels
