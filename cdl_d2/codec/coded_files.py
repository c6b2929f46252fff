"""Compress image files to bitstream files, and decompress these to PNG."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
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
from cdl_d2.codec.io.image_files import find_images, read_image, write_png
from cdl_d2.codec.io.output_paths import output_paths
from cdl_d2.codec.latent import Latent
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


class FileCompressor:
    """Compresses image files and counts their bits.

    Args:
        encode: function from an image file to its layers.
    """

    def __init__(self, encode: Callable[[Path], Layers]):
        self._encode = encode
        self._images, self._pixels, self._bits = 0, 0, [0, 0]

    def compress(self, path: Path, target: Path) -> list[Path]:
        """Write the bitstream of an image, and its enhancement layer if it has one.

        Whenever the process is killed, either the old or the new image can be decoded.

        Returns:
            enhancement layers of a replaced image that were removed.

        Raises:
            CdlError, OSError: if the image cannot be read or the bitstream not be written.
        """
        layers = self._encode(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary, stale = _temporary_enhancement_path(target), enhancement_paths(target)
        if layers.enhancement:
            layers.enhancement.save(temporary)
        layers.base.save(target)
        if layers.enhancement:
            temporary.replace(stale.pop(0))
        removed = [enhancement for enhancement in stale if enhancement.exists()]
        for enhancement in removed:
            enhancement.unlink()
        for i, layer in enumerate((layers.base, layers.enhancement)):
            self._bits[i] += layer.bits if layer else 0
        self._pixels += math.prod(layers.base.image_size)
        self._images += 1
        return removed

    def summary(self) -> str:
        """Return a line with the number of images and their bits per pixel."""
        if not self._pixels:
            return "no image was compressed"
        base, enhancement = (bits / self._pixels for bits in self._bits)
        more = f", and {enhancement:.3f} in enhancement layers" if enhancement else ""
        return f"{self._images} images: {base:.3f} bits per pixel{more}"


def build_compressor(codec: Codec, channels: str | None = None) -> FileCompressor:
    """Build a FileCompressor for a codec.

    Args:
        codec: codec with dequantized latents.
        channels: channels of the base layer, such as `0-31,40`; None for one bitstream with all.

    Raises:
        CdlError: for channels that the codec does not have or cannot code alone; for a codec with
            rounded latents.
    """
    _ = codec.cpu_coder  # raises for rounded latents
    selection = None if channels is None else parse_channels(channels)
    if selection is not None:
        check_layered(codec)
        channel_mask(codec.latent_channels, selection)
    device = next(codec.parameters()).device

    def encode(path: Path) -> Layers:
        image = read_image(path).to(device).float() / 255
        if selection is None:
            return Layers(codec.compress(image))
        return compress_layers(codec, image, selection)

    return FileCompressor(encode)


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
    temporary = _temporary_enhancement_path(path)
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


def _temporary_enhancement_path(path: Path) -> Path:
    """Return the path of an enhancement layer until its base layer is written."""
    return path.with_name(f".{enhancement_paths(path)[0].name}-coming")


def describe_bitstream(path: Path) -> dict[str, str | int | float]:
    """Return the contents of a bitstream file's header.

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
