"""Images in files: which there are, and their pixels."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from cdl_d2.codec.latent import check_pixels
from cdl_d2.errors import CdlError
from cdl_d2.files import write_atomically

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")  # that Pillow may read
ORIENTATION = 0x0112  # the EXIF tag
SIDEWAYS = (5, 6, 7, 8)  # values of it whose images have rows for columns
DEEP = re.compile(r"(?<!BGR);(12|16)")  # in Pillow's name of a layout; BGR;16 is a whole pixel
UNREADABLE = (  # what Pillow raises for damaged files of these formats
    *(AssertionError, EOFError, OSError, SyntaxError, ValueError, struct.error, zlib.error),
    *(ArithmeticError, AttributeError, LookupError, NotImplementedError, TypeError),
    Image.DecompressionBombError,
)


def find_images(folder: Path) -> list[Path]:
    """All images under a folder, sorted.

    Raises:
        NotADirectoryError: if there is no such folder.
        CdlError: if there is no image.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"there is no folder {folder}")
    paths = sorted(p for p in folder.rglob("*") if is_named_as_image(p))
    if not paths:
        raise CdlError(f"no image ({', '.join(sorted(IMAGE_SUFFIXES))}) under {folder}")
    return paths


def is_named_as_image(path: Path) -> bool:
    """Return whether a path ends as an image's does, and is no folder."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()


@contextmanager
def reading_image(path: str | Path) -> Iterator[None]:
    """Give what Pillow raises for a damaged or hostile file, or for none, as one error.

    Raises:
        FileNotFoundError: if there is no such file.
        CdlError: if it is not an image, a damaged one, or one that would fill the memory.
    """
    try:
        yield
    except CdlError:
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no image {path}") from error
    except MemoryError as error:
        raise CdlError(f"{path} does not fit the memory") from error
    except UNREADABLE as error:
        reason = str(error) or type(error).__name__
        raise CdlError(f"{path} cannot be read as an image: {reason}") from error


@contextmanager
def open_image(path: str | Path, content: bytes | None = None) -> Iterator[Image.Image]:
    """An image or label map whose header has been looked at, before any pixel is decoded.

    The formats are those of FORMATS, whose readers start no other program.

    Args:
        content: of the file, which is then not opened; `path` names it in errors.

    Raises:
        FileNotFoundError, CdlError: as reading_image; for another format, or more pixels than
            max_pixels.
    """
    if content is None and Path(path).exists() and not Path(path).is_file():
        raise CdlError(f"{path} is not a file")  # a pipe would be waited for
    source = path if content is None else io.BytesIO(content)
    with reading_image(path), Image.open(source, formats=FORMATS) as file:
        try:
            check_pixels((file.height, file.width))
        except CdlError as error:
            raise CdlError(f"{path}: {error}") from error
        yield file


def check_image(file: Image.Image, path: str | Path) -> None:
    """Raise CdlError for an opened image of more than 8 bits a channel, which would be clipped;
    warn of what is not looked at: transparency, and all frames but the first."""
    if file.mode.startswith(("I", "F")) or any(map(_is_deep, file.tile)):
        raise CdlError(f"{path} has more than 8 bits a channel ({file.mode}): convert it")
    if file.has_transparency_data:
        warnings.warn(f"{path}: its transparency is ignored", stacklevel=2)
    if file.format != "MPO" and getattr(file, "is_animated", False):
        warnings.warn(f"{path}: only the first of its frames is looked at", stacklevel=2)


def _is_deep(tile: Sequence[Any]) -> bool:
    """Whether a tile, as Pillow describes it, has channels of more than 8 bits in the file."""
    codec, _, _, arguments = tile
    arguments = arguments if isinstance(arguments, tuple) else (arguments,)
    if codec.startswith("ppm"):  # the largest value
        return any(isinstance(each, int) and each > 255 for each in arguments)
    return bool(DEEP.search(str(arguments[:1])))


def check_image_file(path: str | Path, as_labels: bool = False) -> None:
    """As check_image, of a file that another library will read; raises as open_image.

    Args:
        as_labels: it is a label map, whose channel may have more than 8 bits.
    """
    with open_image(path) as file:
        if not as_labels:
            check_image(file, path)


def read_label_map(path: str | Path) -> np.ndarray:
    """The labels of an image of one channel, H x W; raises as open_image."""
    with open_image(path) as file:
        return np.array(file)


def read_image(path: str | Path, content: bytes | None = None) -> torch.Tensor:
    """3 x H x W, uint8, RGB, turned upright as its EXIF tag says; of several frames the first,
    of a transparent one the colours without it.

    Args:
        content: as open_image.

    Raises:
        FileNotFoundError, CdlError: as open_image and check_image.
    """
    with open_image(path, content) as file:
        check_image(file, path)
        return _upright(pil_to_tensor(file.convert("RGB")), file.getexif().get(ORIENTATION))


def read_image_size(path: str | Path, content: bytes | None = None) -> tuple[int, int]:
    """Return (H, W) in pixels of what read_image gives, from the header; raises as open_image."""
    with open_image(path, content) as file:
        sideways = file.getexif().get(ORIENTATION) in SIDEWAYS
        return (file.width, file.height) if sideways else (file.height, file.width)


def write_png(path: str | Path, image: np.ndarray) -> None:
    """Write an image with write_atomically; folders that are missing are made.

    Args:
        image: H x W x 3, uint8, RGB; or H x W, uint8 or uint16, gray.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as temporary:  # torchvision's writer says nothing of a full disk
        Image.fromarray(image).save(temporary, format="PNG")


def _upright(pixels: torch.Tensor, orientation: object) -> torch.Tensor:
    """What ImageOps.exif_transpose does, without its failures on other, odd entries of the EXIF."""
    if orientation in SIDEWAYS:
        pixels = pixels.transpose(1, 2)
    flips = {1: (3, 4, 7, 8), 2: (2, 3, 6, 7)}  # rows and columns
    return pixels.flip([side for side, turned in flips.items() if orientation in turned])
