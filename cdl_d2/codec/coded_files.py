"""Image files to bitstream files, and back to PNG."""

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
    REST_SUFFIX,
    SELECTED,
    SUFFIX,
    Bitstream,
    BitstreamError,
    rest_of,
)
from cdl_d2.codec.choice import CodecChoice
from cdl_d2.codec.codec import Codec
from cdl_d2.codec.io.image_files import find_images, read_image, write_png
from cdl_d2.codec.latent import Latent
from cdl_d2.errors import CdlError

MOST_CHANNELS = 2**16


def bitstream_paths(images: Sequence[Path], output: Path | None, force: bool) -> dict[Path, Path]:
    """Where the bitstream of each image goes.

    Args:
        images: files; of a folder all images under it, which keep their places in it.
        output: folder; None for beside each image.
        force: whether files may be replaced.

    Raises:
        FileExistsError, NotADirectoryError: if a file is in the way.
        CdlError: if two results would have the same name.
    """
    targets = {}
    for given in images:
        for path in find_images(given) if given.is_dir() else [given]:
            folder = given if given.is_dir() else path.parent
            place = path if output is None else output / path.relative_to(folder)
            targets[path] = place.with_suffix(SUFFIX)
    names: dict[Path, Path] = {}
    for path, target in targets.items():
        for name in map(_place, (target, rest_of(target))):
            if names.setdefault(name, path) != path:
                raise CdlError(f"{names[name]} and {path} would both be {name}: rename one")
    _check_free([*names], output, force)
    return targets


def picture_paths(streams: Sequence[Path], output: Path | None, force: bool) -> dict[Path, Path]:
    """Where the PNG of each bitstream goes; a second layer goes with its first one.

    Raises:
        FileExistsError, NotADirectoryError: if a file is in the way.
        CdlError: if two results would have the same name, or a second layer comes alone.
    """
    targets: dict[Path, Path] = {}
    places: set[Path] = set()
    for path in streams:
        if path.name.endswith(REST_SUFFIX):
            first = path.with_name(path.name.removesuffix(REST_SUFFIX) + SUFFIX)
            if first not in streams:
                raise CdlError(f"{path} is a second layer: give the first one, {first}")
            continue
        target = (output or path.parent) / f"{path.stem}.png"
        if _place(target) in places:
            raise CdlError(f"two files would both be {target}: do them separately")
        places.add(_place(target))
        targets[path] = target
    _check_free([*targets.values()], output, force)
    return targets


class FileCompressor:
    """Compresses image files and counts their bits.

    Args:
        encode: function from an image file to its layers.
    """

    def __init__(self, encode: Callable[[Path], Layers]):
        self._encode = encode
        self._images, self._pixels, self._bits = 0, 0, [0, 0]

    def compress(self, path: Path, target: Path) -> Path | None:
        """Write the bitstream of an image, and its second layer if there is one.

        Whenever it is killed, there is the whole old image or the whole new one.

        Returns:
            the second layer of what was replaced, if it had to be removed.

        Raises:
            CdlError, OSError: if the image cannot be read or the bitstream not be written.
        """
        layers = self._encode(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        rest, coming = rest_of(target), _coming_rest_of(target)
        if layers.rest:
            layers.rest.save(coming)
        layers.selected.save(target)
        removed = None
        if layers.rest:
            coming.replace(rest)
        elif rest.exists():
            rest.unlink()
            removed = rest
        for i, layer in enumerate((layers.selected, layers.rest)):
            self._bits[i] += layer.bits if layer else 0
        self._pixels += math.prod(layers.selected.image_size)
        self._images += 1
        return removed

    def summary(self) -> str:
        """Return a line with the number of images and their bits per pixel."""
        if not self._pixels:
            return "no image was compressed"
        first, second = (bits / self._pixels for bits in self._bits)
        more = f", and {second:.3f} in second layers" if second else ""
        return f"{self._images} images: {first:.3f} bits per pixel{more}"


def compressor(codec: Codec, channels: str | None = None) -> FileCompressor:
    """Return a FileCompressor for a codec.

    Args:
        channels: of the first layer, such as `0-31,40`; None for one layer with all of them.

    Raises:
        CdlError: for channels that the codec does not have or cannot code alone; for a codec whose
            quantization no bitstream has.
    """
    _ = codec.cpu_coder  # errors now, not once for every file
    chosen = None if channels is None else parse_channels(channels)
    if chosen is not None:
        check_layered(codec)
        channel_mask(codec.latent_channels, chosen)
    device = next(codec.parameters()).device

    def layers_of(path: Path) -> Layers:
        image = read_image(path).to(device).float() / 255
        if chosen is None:
            return Layers(codec.compress(image), None)
        return compress_layers(codec, image, chosen)

    return FileCompressor(layers_of)


def decompress_file(path: Path, target: Path, weights: str, device: str) -> None:
    """Write the image of a bitstream, also of one of CompressAI's, as PNG, with whichever codec
    wrote it.

    Args:
        weights: of the codec, instead of the zoo's or the package's.

    Raises:
        BitstreamError, OSError: if it cannot be read or written; if a layer is missing.
    """
    stream = load_bitstream(path)
    wrote = stream.codec
    codec = CodecChoice(wrote.name, wrote.quality, wrote.metric, weights).load().on(device)
    if stream.coding == SELECTED:
        latent = _from_layers(codec, path, stream)
    else:
        latent = codec.decompress(stream)
    image = torch.round(codec.decode(latent.to(device)) * 255).byte().cpu()
    write_png(target, image.permute(1, 2, 0).numpy())


def _from_layers(codec: Codec, path: Path, first: Bitstream) -> Latent:
    """The latent of a first layer and the second one beside it."""
    coming = _coming_rest_of(path)
    if coming.is_file():  # who wrote them was killed between the two
        with suppress(BitstreamError):
            return decompress_layers(codec, first, Bitstream.load(coming))
    beside = rest_of(path)
    rest = Bitstream.load(beside) if beside.is_file() else None
    try:
        return decompress_layers(codec, first, rest)
    except BitstreamError as error:
        state = "beside it" if rest else "there is none beside it"
        raise BitstreamError(f"{path}: {error} (in {beside}; {state})") from error


def _coming_rest_of(path: Path) -> Path:
    """Where a second layer is until its first one is written."""
    return path.with_name(f".{rest_of(path).name}-coming")


def _place(path: Path) -> Path:
    """Where a file really is, whatever links lead to its folder."""
    return path.parent.resolve() / path.name


def describe_bitstream(path: Path) -> dict[str, str | int | float]:
    """What the header of a bitstream says.

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
        "weights": stream.codec.weights or "not said",
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
    """Channels from `0-31,40`.

    Raises:
        CdlError: for anything else.
    """
    channels: list[int] = []
    for part in text.split(","):
        span = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", part)
        if span is None:
            raise CdlError(f"channels {text!r} are not of the form 0-31,40")
        first, last = int(span[1]), int(span[2] or span[1])
        if last < first:
            raise CdlError(f"channels {text!r}: {part} goes backwards")
        if last >= MOST_CHANNELS:
            raise CdlError(f"channels {text!r}: no codec has channel {last}")
        channels += range(first, last + 1)
    return channels


def _check_free(targets: Sequence[Path], output: Path | None, force: bool) -> None:
    if output and output.exists() and not output.is_dir():
        raise NotADirectoryError(f"--output {output} is a file, not a folder")
    existing = [target for target in targets if target.exists()]
    if existing and not force:
        raise FileExistsError(f"{existing[0]} exists already: add --force to replace it")
