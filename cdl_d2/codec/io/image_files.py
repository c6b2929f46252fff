"""Images: the files in a folder, and the pixels of a file or of any other source."""

from __future__ import annotations

import io
import os
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from cdl_d2.codec.io.folders import list_files, report_skipped
from cdl_d2.codec.latent import check_pixels
from cdl_d2.errors import CdlError
from cdl_d2.files import write_atomically

IMAGE_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
}
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")  # that Pillow may read
ORIENTATION = 0x0112  # the EXIF tag
TIFF_WIDTH, TIFF_HEIGHT = 256, 257  # tags of the stored image
SIDEWAYS = (5, 6, 7, 8)  # values of it whose images have rows for columns
DEEP = re.compile(r"(?<!BGR);(12|16)")  # in Pillow's name of a layout; BGR;16 is a whole pixel
CHANNELS = {1: "gray", 2: "gray and alpha", 3: "RGB", 4: "RGBA"}  # of arrays and tensors
Content = bytes | bytearray | memoryview
Picture = str | Path | Content | Image.Image | np.ndarray | torch.Tensor
UNREADABLE = (  # what Pillow raises for damaged files of these formats
    *(AssertionError, EOFError, OSError, SyntaxError, ValueError, struct.error, zlib.error),
    *(ArithmeticError, AttributeError, LookupError, NotImplementedError, TypeError),
    Image.DecompressionBombError,
)


def find_images(folder: Path) -> list[Path]:
    """Return all images under a folder, sorted; see list_files. Other files are logged in a line.

    Raises:
        NotADirectoryError: if there is no such folder.
        OSError: if it, or a folder in it, cannot be listed.
        CdlError: if there is no image.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"there is no folder {folder}")
    listing = list_files(folder, is_named_as_image)
    for error in listing.errors.values():
        raise error
    if not listing.files:
        raise CdlError(f"no image ({', '.join(sorted(IMAGE_SUFFIXES))}) under {folder}")
    report_skipped(listing.skipped, "image")
    return listing.files


def is_named_as_image(name: str) -> bool:
    """Return whether the name of a file ends as an image's does."""
    return PurePath(name).suffix.lower() in IMAGE_SUFFIXES


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
    with reading_image(path), ExitStack() as stack:
        # Of a path Pillow would map raw pixels into memory, and those of a turned TIFF wrongly.
        stream = io.BytesIO(content) if content is not None else open(path, "rb")  # noqa: SIM115
        stack.enter_context(stream)
        file = stack.enter_context(Image.open(stream, formats=FORMATS))
        _check_size(file, path)
        yield file


def _check_size(image: Image.Image | torch.Tensor, name: str | Path) -> None:
    """Raise CdlError for an image without pixels, or with more than max_pixels."""
    is_tensor = isinstance(image, torch.Tensor)
    height, width = image.shape[1:] if is_tensor else (image.height, image.width)
    try:
        check_pixels((height, width))
    except CdlError as error:
        raise CdlError(f"{name}: {error}") from error


def check_image(file: Image.Image, path: str | Path) -> None:
    """Raise CdlError for an image of more than 8 bits a channel, which would be clipped; warn of
    what is not looked at: transparency, and all frames but the first."""
    tiles = getattr(file, "tile", ())  # of a file that is not loaded yet
    if file.mode.startswith(("I", "F")) or any(map(_is_deep, tiles)):
        raise CdlError(f"{path} has more than 8 bits a channel ({file.mode}): convert it")
    if file.has_transparency_data:
        _warn_of_transparency(path)
    if file.format != "MPO" and getattr(file, "is_animated", False):
        warnings.warn(f"{path}: only the first of its frames is looked at", stacklevel=2)


def _warn_of_transparency(name: str | Path) -> None:
    warnings.warn(f"{name}: its transparency is ignored", stacklevel=3)


def _is_deep(tile: Sequence[Any]) -> bool:
    """Whether a tile, as Pillow describes it, has channels of more than 8 bits in the file."""
    codec, _, _, arguments = tile
    arguments = arguments if isinstance(arguments, tuple) else (arguments,)
    if codec.startswith("ppm"):  # the largest value
        return any(isinstance(each, int) and each > 255 for each in arguments)
    return bool(DEEP.search(str(arguments[:1])))


def read_label_map(path: str | Path) -> np.ndarray:
    """The labels of an image of one channel, H x W; raises as open_image."""
    with open_image(path) as file:
        return np.array(file)


def read_image(image: Picture, name: str = "") -> torch.Tensor:
    """Return the pixels of an image, 3 x H x W, uint8, RGB.

    A file, its bytes and its picture of Pillow give the same: turned upright as the EXIF tag says;
    of several frames the first (of a picture its current one), of transparent ones the colours
    without transparency. Arrays and tensors are uint8 or boolean, with 1 to 4 channels: gray, gray
    and alpha, RGB, RGBA.

    Args:
        image: a path; the bytes of a file; a picture of Pillow; an array, H x W or H x W x C; or a
            tensor, H x W or C x H x W.
        name: of the image in errors and warnings; default its path, or a description.

    Raises:
        FileNotFoundError: if there is no such file.
        CdlError: if it is not an image, or a damaged one; if it has more than 8 bits a channel, or
            more pixels than max_pixels.
    """
    if isinstance(image, (str, os.PathLike)):
        with open_image(image) as file:
            return _pixels_of_picture(file, name or image)
    if isinstance(image, Content):
        name = name or f"{len(image)} bytes"
        with open_image(name, bytes(image)) as file:
            return _pixels_of_picture(file, name)
    if isinstance(image, Image.Image):
        name = name or str(getattr(image, "filename", "")) or f"a picture of mode {image.mode}"
        _check_size(image, name)
        with reading_image(name), _unmapped(image):
            return _pixels_of_picture(image, name)
    if isinstance(image, (np.ndarray, torch.Tensor)):
        return _pixels_of_array(image, name)
    raise CdlError(
        f"a {type(image).__name__} is no image: give a path, the bytes of a file, a picture of "
        "Pillow, an array H x W x 3 or a tensor 3 x H x W"
    )


@contextmanager
def _unmapped(picture: Image.Image) -> Iterator[None]:
    """Keep Pillow from mapping a file into memory, see open_image."""
    path = getattr(picture, "filename", None)
    if path is None:
        yield
        return
    picture.filename = ""
    try:
        yield
    finally:
        picture.filename = path


def _pixels_of_picture(picture: Image.Image, name: str | Path) -> torch.Tensor:
    check_image(picture, name)
    pixels = pil_to_tensor(picture.convert("RGB"))  # a TIFF is now upright, and its tag gone
    return _upright(pixels, picture.getexif().get(ORIENTATION))


def _pixels_of_array(image: np.ndarray | torch.Tensor, name: str) -> torch.Tensor:
    kind, is_array = type(image).__name__, isinstance(image, np.ndarray)
    name = name or f"{kind} of shape {tuple(image.shape)} and {image.dtype}"
    if image.dtype not in (np.uint8, np.bool_, torch.uint8, torch.bool):
        raise CdlError(
            f"{name} is no image: expected uint8, 0 to 255; multiply floats of 0 to 1 by 255, "
            "round and convert them"
        )
    if not is_array and (image.layout != torch.strided or image.is_meta or image.is_nested):
        raise CdlError(f"{name} is no image: expected a dense tensor")
    pixels = torch.from_numpy(np.array(image)) if is_array else image.cpu()
    pixels = pixels.unsqueeze(-1 if is_array else 0) if pixels.ndim == 2 else pixels
    pixels = pixels.movedim(-1, 0) if is_array and pixels.ndim == 3 else pixels
    if pixels.ndim != 3 or pixels.shape[0] not in CHANNELS:
        layout = "H x W x C" if is_array else "C x H x W"
        channels = ", ".join(f"{count} ({meaning})" for count, meaning in CHANNELS.items())
        raise CdlError(f"{name} is no image: expected {layout}, and C one of {channels}")
    _check_size(pixels, name)
    pixels = pixels * 255 if pixels.dtype == torch.bool else pixels
    if len(pixels) in (2, 4):
        _warn_of_transparency(name)
    return pixels[:3] if len(pixels) > 2 else pixels[:1].repeat(3, 1, 1)


def read_image_size(path: str | Path, content: bytes | None = None) -> tuple[int, int]:
    """Return (H, W) in pixels of what read_image gives, from the header; raises as open_image."""
    with open_image(path, content) as file:
        width, height = file.size
        if file.format == "TIFF":  # Pillow has turned its size already
            width, height = file.tag_v2[TIFF_WIDTH], file.tag_v2[TIFF_HEIGHT]
        sideways = file.getexif().get(ORIENTATION) in SIDEWAYS
        return (width, height) if sideways else (height, width)


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
