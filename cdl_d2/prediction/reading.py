"""Readers of images, bitstreams and stored latents as samples of a model's batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torchvision.transforms.functional import resize

from cdl_d2.codec import Bitstream, Codec, CodecChoice
from cdl_d2.codec.bitstream.compressai_file import (
    COMPRESSAI_SUFFIX,
    is_compressai_file,
    load_bitstream,
    read_bitstream,
)
from cdl_d2.codec.bitstream.header import MAGIC
from cdl_d2.codec.bitstream.stream import SUFFIX
from cdl_d2.codec.io.image_files import Content, Picture, read_image, read_image_size
from cdl_d2.data import LatentStore
from cdl_d2.errors import BitstreamError, CdlError, MisalignedImageError, memory_error
from cdl_d2.nn.input.coded_input import CodedInput
from cdl_d2.prediction.tar_files import TarMember


@dataclass(frozen=True)
class StoredLatent:
    """Image of a latent store, in the store's first variant that is not flipped."""

    store: Path
    image: str

    def __str__(self) -> str:
        return f"{self.store}/{self.image}"


@dataclass(frozen=True)
class Unreadable:
    """File that is named as a source and cannot be read.

    Attributes:
        error: message with the file and the reason.
        archive: the tar file that it is in.
    """

    path: str
    error: str
    archive: Path | None = None

    def __str__(self) -> str:
        return self.path


T = TypeVar("T")
R = TypeVar("R")
Source = Picture | Bitstream | TarMember | StoredLatent | Unreadable


@dataclass
class SourceReader:
    """Reader of sources; can be sent to other processes.

    Args:
        coded_input: input domain and codec of the model.
        resize: resizing or cropping of an image in evaluation.
        cropped: True if `resize` crops: predictions then refer to the crop.
    """

    coded_input: CodedInput
    resize: Callable[[torch.Tensor], torch.Tensor]
    cropped: bool = False
    _stores: dict[Path, LatentStore] = field(default_factory=dict)

    def __call__(self, source: Source) -> dict[str, Any]:
        """Return a sample with `height` and `width` of the original image.

        An image becomes `image`, resized as in evaluation; a bitstream its latent or
        reconstruction, or `image` for an RGB model.

        Raises:
            CdlError, OSError: if it cannot be read, or was coded by another codec.
        """
        if isinstance(source, StoredLatent):
            return self._stored(source)
        opened = open_source(source)
        if isinstance(opened, Bitstream) and self.coded_input.codec is not None:
            try:
                return self.coded_input.read(opened)
            except MisalignedImageError as error:
                raise BitstreamError(
                    f"{error}: `cdl codec decompress` the file and `cdl codec compress` the PNG"
                ) from error
        size = _size_of(opened)
        if isinstance(opened, Bitstream):
            opened = decode_pixels(opened, None)
        image = self.resize(opened)
        height, width = image.shape[1:] if self.cropped else size
        image = self.coded_input.swap(image).contiguous()
        return {"image": image, "height": height, "width": width}

    def picture(self, source: Source) -> torch.Tensor:
        """Return the image of a source, 3 x H x W, uint8, RGB.

        A bitstream is decoded and resized to the size of the original image.
        """
        if isinstance(source, StoredLatent):
            raise CdlError(f"{source} is a stored latent without a picture: give draw an image")
        opened = open_source(source)
        if isinstance(opened, Bitstream):
            size, as_image = opened.result_size, self.coded_input.codec is None
            opened = decode_pixels(opened, self.coded_input.find_codec(opened.codec))
            if not (self.cropped and as_image):
                return resize(opened, list(size))
        return self.resize(opened) if self.cropped else opened

    def size(self, source: Source) -> tuple[int, int]:
        """Return (H, W) in pixels of the original image, from headers; raise as a call."""
        if isinstance(source, StoredLatent):
            return self._store(source).original_size(source.image)
        if isinstance(source, (str, Path)) and not _is_bitstream(Path(source)):
            return read_image_size(source)
        if isinstance(source, TarMember):
            content = source.read_bytes()
            if not _is_coded(content, str(source)):
                return read_image_size(str(source), content)
        return _size_of(open_source(source))

    def _stored(self, source: StoredLatent) -> dict[str, Any]:
        store = self._store(source)
        height, width = store.original_size(source.image)
        reads = self.coded_input.with_scales, self.coded_input.with_margin
        sample = store.read(source.image, store.upright_variant, *reads)
        return sample | {"height": height, "width": width}

    def _store(self, source: StoredLatent) -> LatentStore:
        coded_input = self.coded_input
        if coded_input.has_pixels:
            raise CdlError(
                f"{source.store} holds latents, and the model takes domain {coded_input.domain!r}"
            )
        if source.store not in self._stores:
            self._stores[source.store] = LatentStore(source.store, *coded_input.codecs)
        return self._stores[source.store]


def outcome_of(action: Callable[[T], R], argument: T) -> R | CdlError | OSError:
    """Return the result of an action, or its CdlError or OSError; no memory is a CdlError."""
    try:
        return action(argument)
    except (CdlError, OSError) as error:
        return error
    except (MemoryError, RuntimeError) as error:
        return memory_error(error)


def _size_of(opened: Bitstream | torch.Tensor) -> tuple[int, int]:
    """Return (H, W) in pixels of the original image."""
    if isinstance(opened, Bitstream):
        return opened.result_size
    height, width = opened.shape[1:]
    return height, width


def open_source(source: Source) -> Bitstream | torch.Tensor:
    """Read a bitstream, or the pixels of an image, 3 x H x W, uint8, RGB.

    Raises:
        CdlError, OSError: if the source is neither, or cannot be read.
    """
    if isinstance(source, Unreadable):
        raise CdlError(source.error)
    if isinstance(source, Bitstream):
        return source
    if isinstance(source, (str, Path)):
        return load_bitstream(source) if _is_bitstream(Path(source)) else read_image(source)
    if not isinstance(source, Content | TarMember):
        return read_image(source)
    content = source.read_bytes() if isinstance(source, TarMember) else bytes(source)
    name = str(source) if isinstance(source, TarMember) else f"{len(content)} bytes"
    return read_bitstream(content, name) if _is_coded(content, name) else read_image(content, name)


def _is_coded(content: bytes, name: str) -> bool:
    """Return whether content is a bitstream, by its name or by itself."""
    return content.startswith(MAGIC) or _has_suffix(name) or is_compressai_file(content)


def _is_bitstream(path: Path) -> bool:
    """Return whether a file is a bitstream, by its name or its first bytes."""
    if _has_suffix(path.name) or not path.is_file():
        return _has_suffix(path.name)
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _has_suffix(name: str) -> bool:
    return name.lower().endswith((SUFFIX, COMPRESSAI_SUFFIX))


def load_codec(stream: Bitstream) -> Codec:
    """Load the codec that wrote a bitstream, with published weights.

    Raises:
        CdlError, FileNotFoundError: if there is none.
    """
    identity = stream.codec
    return CodecChoice(identity.name, identity.quality, identity.metric).load()


def decode_pixels(stream: Bitstream, codec: Codec | None) -> torch.Tensor:
    """Decode a bitstream to an image, 3 x H x W, uint8, RGB.

    Args:
        stream: bitstream of an image.
        codec: that wrote it; None to load the one with published weights.

    Raises:
        CdlError, FileNotFoundError: if there is no such codec, or another one wrote the stream.
    """
    codec = codec or load_codec(stream)
    latent = codec.decompress(stream)
    device = next(codec.parameters()).device
    return torch.round(codec.decode(latent.to(device)) * 255).byte().cpu()
