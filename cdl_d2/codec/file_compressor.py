"""Compression of image files to bitstream files, in one process or several."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch.utils.data import Dataset

from cdl_d2.codec.bitstream.layers import Layers, read_layers
from cdl_d2.codec.bitstream.stream import Bitstream, BitstreamError, enhancement_paths
from cdl_d2.codec.codec import Codec
from cdl_d2.codec.latent import Latent
from cdl_d2.errors import CdlError, within_memory
from cdl_d2.files import write_atomically
from cdl_d2.workers import PlainlyPickled, load_in_workers, usable_cores

IMAGES_PER_WORKER = 8  # fewer are compressed before a process has started

# PSNR in dB and MS-SSIM (None if the image is too small) of an image and its reconstruction, both
# 3 x H x W in 0..255.
Measure = Callable[[torch.Tensor, torch.Tensor], tuple[float, float | None]]


@dataclass(frozen=True)
class CompressedImage:
    """Size and quality of the files of an image.

    Attributes:
        pixels: number of pixels of the coded image.
        bits: bits of the base layer (or of all channels), and of the enhancement layer.
        removed: enhancement layers of a replaced image that were removed.
        quality: PSNR in dB and MS-SSIM; None if they were not measured.
    """

    pixels: int
    bits: tuple[int, int]
    removed: tuple[Path, ...]
    quality: tuple[float, float | None] | None = None


class FileCompressor:
    """Compressor of image files, which reads back what it writes.

    Args:
        codec: codec of the files.
        encode: function from an image file to the image, 3 x H x W in [0, 1], and its layers; it
            can be pickled if several processes compress.
        measure: function that measures the quality; None to reconstruct no image.
    """

    def __init__(
        self,
        codec: Codec,
        encode: Callable[[Path], tuple[torch.Tensor, Layers]],
        measure: Measure | None = None,
    ):
        self._codec, self._encode, self._measure = codec, encode, measure

    def compress(self, path: Path, target: Path) -> CompressedImage:
        """Write the bitstream of an image, and its enhancement layer if it has one.

        The symbols in the written files are compared with those of the encoder. Whenever the
        process is killed, either the old or the new image can be decoded.

        Raises:
            CdlError, OSError: if the image cannot be read or the bitstream not be written.
            BitstreamError: if the written files do not have the symbols of the image; an existing
                file is kept.
        """
        image, layers = self._encode(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        coming, stale = coming_enhancement_path(target), enhancement_paths(target)
        if layers.enhancement:
            layers.enhancement.save(coming)
        try:
            with write_atomically(target) as temporary:
                temporary.write_bytes(layers.base.to_bytes())
                streams = [Bitstream.load(temporary)]
                streams += [Bitstream.load(coming)] if layers.enhancement else []
                y_hat = read_layers(self._codec, *streams).y_hat
        except BitstreamError as error:
            coming.unlink(missing_ok=True)
            raise BitstreamError(f"{target} does not read back as written: {error}") from error
        if layers.enhancement:
            coming.replace(stale.pop(0))
        removed = tuple(enhancement for enhancement in stale if enhancement.exists())
        for enhancement in removed:
            enhancement.unlink()
        bits = (*(stream.bits for stream in streams), 0)[:2]
        quality = self._measure and self._measure_quality(image, y_hat)
        return CompressedImage(math.prod(layers.base.image_size), bits, removed, quality)

    def compress_all(
        self, targets: Mapping[Path, Path], workers: int
    ) -> Iterator[CompressedImage | Exception]:
        """Compress image files in turn; yield a result or the error of each.

        Args:
            targets: bitstream file of each image file.
            workers: processes of one thread each; 0 to compress in this one.
        """
        files = _Files(self, list(targets.items()))
        if not workers:
            return map(files.__getitem__, range(len(files.targets)))
        return load_in_workers(files, range(len(files.targets)), workers)

    def default_workers(self, count: int) -> int:
        """Return the number of worker processes for a number of images: 0, or one per core."""
        if next(self._codec.parameters()).device.type != "cpu":
            return 0
        workers = min(usable_cores(), count // IMAGES_PER_WORKER)
        return workers if workers > 1 else 0

    def _measure_quality(self, image: torch.Tensor, y_hat: torch.Tensor):
        size = tuple(image.shape[1:])
        reconstruction = self._codec.decode(Latent(y_hat.to(image.device), size))
        return self._measure(torch.round(image * 255), torch.round(reconstruction * 255))


class _Files(PlainlyPickled, Dataset):
    """Dataset of the results, or errors, of compressing files."""

    def __init__(self, compressor: FileCompressor, targets: Sequence[tuple[Path, Path]]):
        self.compressor, self.targets = compressor, targets

    def __getitem__(self, index: int) -> CompressedImage | Exception:
        try:
            with within_memory():
                return self.compressor.compress(*self.targets[index])
        except (CdlError, OSError) as error:
            return error


def summarize(images: Sequence[CompressedImage]) -> str:
    """Return a line with the number of images, their bits per pixel, and their mean quality."""
    if not images:
        return "no image was compressed"
    pixels = sum(image.pixels for image in images)
    base, enhancement = (sum(image.bits[i] for image in images) / pixels for i in (0, 1))
    text = f"{len(images)} images, read back and equal: {base:.3f} bits per pixel"
    if enhancement:
        text += f", and {enhancement:.3f} in enhancement layers"
    qualities = [image.quality for image in images if image.quality]
    if qualities:
        text += f"; PSNR {fmean(psnr for psnr, _ in qualities):.2f} dB"
    similarities = [similarity for _, similarity in qualities if similarity is not None]
    if similarities:
        text += f", MS-SSIM {fmean(similarities):.4f}"
    return text


def coming_enhancement_path(path: Path) -> Path:
    """Return the path of an enhancement layer until its base layer is written."""
    return path.with_name(f".{enhancement_paths(path)[0].name}-coming")
