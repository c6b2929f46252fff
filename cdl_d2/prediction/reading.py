"""From whatever is given, an image or a bitstream, to an item of a model's batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cdl_d2.codec import Bitstream, Codec, CodecChoice
from cdl_d2.codec.bitstream.compressai_file import (
    COMPRESSAI_SUFFIX,
    is_compressai_file,
    load_bitstream,
    read_bitstream,
)
from cdl_d2.codec.bitstream.header import MAGIC
from cdl_d2.codec.bitstream.stream import SUFFIX
from cdl_d2.codec.image_files import read_image
from cdl_d2.data import LatentStore
from cdl_d2.errors import CdlError
from cdl_d2.nn.coded_input import CodedInput
from cdl_d2.prediction.results import Picture, as_pixels


@dataclass(frozen=True)
class TarMember:
    """A file inside a tar archive.

    Attributes:
        archive: the tar file.
        name: of the file in it.
        offset, size: of its content, in bytes.
    """

    archive: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"

    def read_bytes(self) -> bytes:
        """Its content; raises OSError, or CdlError if the archive has become shorter."""
        with open(self.archive, "rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) != self.size:
            raise CdlError(f"{self.archive} ends inside of {self.name}: it is truncated")
        return content


@dataclass(frozen=True)
class StoredLatent:
    """An image of a latent store, in the store's first variant."""

    store: Path
    image: str

    def __str__(self) -> str:
        return f"{self.store}/{self.image}"


Source = Picture | bytes | Bitstream | TarMember | StoredLatent


@dataclass
class SourceReader:
    """Makes items of what is given; can be sent to other processes.

    Args:
        coded_input: of the model.
        resize: of an image, see PredictionModel.
        cropped: whether `resize` crops: predictions are then of the part that it leaves.
    """

    coded_input: CodedInput
    resize: Callable[[torch.Tensor], torch.Tensor]
    cropped: bool = False
    _stores: dict[Path, LatentStore] = field(default_factory=dict)

    def __call__(self, source: Source) -> dict[str, Any]:
        """An item of a batch: of an image with `image`, resized as in evaluation, else as
        CodedInput.read makes it of a bitstream; with `height` and `width` of the given image.

        Raises:
            CdlError, OSError: if it cannot be read, or was coded by another codec.
        """
        if isinstance(source, StoredLatent):
            return self._sized(self._stored(source))
        opened = open_source(source)
        if isinstance(opened, Bitstream):
            if self.coded_input.domain != "image":
                return self._sized(self.coded_input.read(opened))
            opened = decoded_pixels(opened, None)
        image = self.resize(opened)
        height, width = (image if self.cropped else opened).shape[1:]
        image = self.coded_input.swap(image).contiguous()
        return {"image": image, "height": height, "width": width}

    def picture(self, source: Source) -> torch.Tensor:
        """The image that a prediction is of, 3 x H x W, uint8, RGB; a bitstream is decoded."""
        if isinstance(source, StoredLatent):
            raise CdlError(f"a latent store has no pictures: give draw the image of {source}")
        opened = open_source(source)
        coded = isinstance(opened, Bitstream)
        if coded:
            opened = decoded_pixels(opened, self.coded_input.codec_of(opened.codec))
        return self.resize(opened) if self.cropped and not coded else opened

    def _stored(self, source: StoredLatent) -> dict[str, Any]:
        shown = self.coded_input
        if shown.domain != "latent":
            raise CdlError(f"a latent store has latents, and the model looks at {shown.domain}s")
        if source.store not in self._stores:
            self._stores[source.store] = LatentStore(source.store, *shown.codecs)
        store = self._stores[source.store]
        return store.read(source.image, store.variants[0], shown.with_scales)

    def _sized(self, item: dict[str, Any]) -> dict[str, Any]:
        height, width = item["image_size"]
        return item | {"height": height, "width": width}


def open_source(source: Source) -> Bitstream | torch.Tensor:
    """A bitstream, or the pixels of an image, 3 x H x W, uint8, RGB.

    Raises:
        CdlError, OSError: if it is neither, or cannot be read.
    """
    if isinstance(source, Bitstream):
        return source
    if isinstance(source, (str, Path)):
        return load_bitstream(source) if _is_bitstream(Path(source)) else read_image(source)
    if not isinstance(source, (bytes, bytearray, TarMember)):
        return as_pixels(source)
    content = bytes(source) if isinstance(source, (bytes, bytearray)) else source.read_bytes()
    name = str(source) if isinstance(source, TarMember) else f"{len(content)} bytes"
    if content.startswith(MAGIC) or _has_suffix(name) or is_compressai_file(content):
        return read_bitstream(content, name)
    return read_image(name, content)


def _is_bitstream(path: Path) -> bool:
    """By its name, or by how it begins."""
    if _has_suffix(path.name) or not path.is_file():
        return _has_suffix(path.name)
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _has_suffix(name: str) -> bool:
    return name.lower().endswith((SUFFIX, COMPRESSAI_SUFFIX))


def codec_of(stream: Bitstream) -> Codec:
    """The codec that wrote a bitstream, of the zoo or the package.

    Raises:
        CdlError, FileNotFoundError: if there is none.
    """
    wrote = stream.codec
    return CodecChoice(wrote.name, wrote.quality, wrote.metric).load()


def decoded_pixels(stream: Bitstream, codec: Codec | None) -> torch.Tensor:
    """The image that a bitstream decodes to, 3 x H x W, uint8, RGB.

    Args:
        codec: that wrote it; default see codec_of.

    Raises:
        CdlError, FileNotFoundError: as codec_of; if another codec wrote the stream.
    """
    codec = codec or codec_of(stream)
    latent = codec.decompress(stream)
    device = next(codec.parameters()).device
    return torch.round(codec.decode(latent.to(device)) * 255).byte().cpu()
