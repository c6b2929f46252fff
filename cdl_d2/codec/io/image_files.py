"""Reading and writing of images: files, bytes, Pillow pictures, arrays and tensors."""

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
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")  # readers run no other program
ORIENTATION = 0x0112  # EXIF tag
SIDEWAYS = (5, 6, 7, 8)  # orientations that swap rows and columns
TIFF_WIDTH, TIFF_HEIGHT = 256, 257  # tags
DEEP = re.compile(r"(?<!BGR);(12|16)")  # in Pillow's name of a pixel layout
CHANNELS = {1: "gray", 2: "gray and alpha", 3: "RGB", 4: "RGBA"}  # of arrays and tensors
Content = bytes | bytearray | memoryview
Picture = str | Path | Content | Image.Image | np.ndarray | torch.Tensor
PILLOW_ERRORS = (  # of corrupted files
    *(AssertionError, EOFError, OSError, SyntaxError, ValueError, struct.error, zlib.error),
    *(ArithmeticError, AttributeError, LookupError, NotImplementedError, TypeError),
    Image.DecompressionBombError,
)


def find_images(folder: Path) -> list[Path]:
    """Return the paths of all images under a folder, sorted; log how many other files there are.

    Raises:
        NotADirectoryError: if the folder does not exist.
        OSError: if it or a folder in it cannot be listed.
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
    """Return whether a file name has the suffix of an image."""
    return PurePath(name).suffix.lower() in IMAGE_SUFFIXES


@contextmanager
def reading_image(path: str | Path) -> Iterator[None]:
    """Convert errors of Pillow in a block.

    Raises:
        FileNotFoundError: if the file does not exist.
        CdlError: if it is not an image, is corrupted, or does not fit into memory.
    """
    try:
        yield
    except CdlError:
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no image {path}") from error
    except MemoryError as error:
        raise CdlError(f"{path} does not fit into memory") from error
    except PILLOW_ERRORS as error:
        reason = str(error) or type(error).__name__
        raise CdlError(f"{path} cannot be read as an image: {reason}") from error


@contextmanager
def open_image(path: str | Path, content: bytes | None = None) -> Iterator[Image.Image]:
    """Open an image or label map of one of FORMATS; its size is checked, no pixel decoded yet.

    With the file's `content`, `path` is not opened, but names it in errors.

    Raises:
        FileNotFoundError: if the file does not exist.
        CdlError: if it is corrupted or of another format, or has more than `max_pixels` pixels.
    """
    if content is None and Path(path).exists() and not Path(path).is_file():
        raise CdlError(f"{path} is not a regular file")  # a pipe would block
    with reading_image(path), ExitStack() as stack:
        # Given a path, Pillow would map raw pixels into memory, wrongly for a rotated TIFF.
        stream = io.BytesIO(content) if content is not None else open(path, "rb")  # noqa: SIM115
        stack.enter_context(stream)
        file = stack.enter_context(Image.open(stream, formats=FORMATS))
        _check_size(file, path)
        yield file


def _check_size(image: Image.Image | torch.Tensor, name: str | Path) -> None:
    """Raise CdlError for an image without pixels, or with more than `max_pixels`."""
    is_tensor = isinstance(image, torch.Tensor)
    height, width = image.shape[1:] if is_tensor else (image.height, image.width)
    try:
        check_pixels((height, width))
    except CdlError as error:
        raise CdlError(f"{name}: {error}") from error


def check_image(file: Image.Image, path: str | Path) -> None:
    """Raise CdlError for more than 8 bits per channel; warn of transparency and further frames."""
    tiles = getattr(file, "tile", ())  # of a file that is not loaded yet
    if file.mode.startswith(("I", "F")) or any(map(_is_deep, tiles)):
        raise CdlError(f"{path} has more than 8 bits per channel ({file.mode}): convert it")
    if file.has_transparency_data:
        _warn_of_transparency(path)
    if file.format != "MPO" and getattr(file, "is_animated", False):
        warnings.warn(f"{path}: only the first frame is read", stacklevel=2)


def check_image_file(path: str | Path) -> None:
    """Raise the errors of read_image; a JPEG is decoded at 1/8 of its size, in less time."""
    with open_image(path) as file:
        check_image(file, path)
        file.draft("RGB", (file.width // 8, file.height // 8))
        file.load()


def _warn_of_transparency(name: str | Path) -> None:
    warnings.warn(f"{name}: transparency is ignored", stacklevel=3)


def _is_deep(tile: Sequence[Any]) -> bool:
    """Return whether Pillow's description of a tile has more than 8 bits per channel."""
    codec, _, _, arguments = tile
    arguments = arguments if isinstance(arguments, tuple) else (arguments,)
    if codec.startswith("ppm"):  # the largest value
        return any(isinstance(value, int) and value > 255 for value in arguments)
    return bool(DEEP.search(str(arguments[:1])))


def read_label_map(path: str | Path) -> np.ndarray:
    """Return the labels of an image with one channel, H x W; errors as in open_image."""
    with open_image(path) as file:
        return np.array(file)


def read_image(image: Picture, name: str = "") -> torch.Tensor:
    """Return the pixels of an image, 3 x H x W, uint8, RGB.

    Files are rotated upright by their EXIF tag. Of several frames, the first is read (of a Pillow
    picture, the current one); transparency is ignored.

    Args:
        image: path; content of a file; Pillow picture; array, H x W or H x W x C; or tensor, H x W
            or C x H x W. Arrays and tensors are uint8 or boolean; C is 1 to 4 (gray, gray and
            alpha, RGB, RGBA).
        name: name of the image in messages; default its path or a description.

    Raises:
        FileNotFoundError: if the file does not exist.
        CdlError: if it is no image or corrupted, or has more than 8 bits per channel or more than
            `max_pixels` pixels.
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
        f"a {type(image).__name__} is not an image: expected a path, the content of a file, a "
        "Pillow picture, an array H x W x 3 or a tensor 3 x H x W"
    )


@contextmanager
def _unmapped(picture: Image.Image) -> Iterator[None]:
    """Keep Pillow from mapping the file of a picture into memory, as open_image does."""
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
    pixels = pil_to_tensor(picture.convert("RGB"))  # rotates a TIFF and removes its tag
    return _upright(pixels, picture.getexif().get(ORIENTATION))


def _pixels_of_array(image: np.ndarray | torch.Tensor, name: str) -> torch.Tensor:
    kind, is_array = type(image).__name__, isinstance(image, np.ndarray)
    name = name or f"{kind} of shape {tuple(image.shape)} and {image.dtype}"
    if image.dtype not in (np.uint8, np.bool_, torch.uint8, torch.bool):
        raise CdlError(
            f"{name} is not an image: expected uint8, 0 to 255; multiply floats in [0, 1] by 255, "
            "round and convert them"
        )
    if not is_array and (image.layout != torch.strided or image.is_meta or image.is_nested):
        raise CdlError(f"{name} is not an image: expected a dense tensor")
    pixels = torch.from_numpy(np.array(image)) if is_array else image.cpu()
    pixels = pixels.unsqueeze(-1 if is_array else 0) if pixels.ndim == 2 else pixels
    pixels = pixels.movedim(-1, 0) if is_array and pixels.ndim == 3 else pixels
    if pixels.ndim != 3 or pixels.shape[0] not in CHANNELS:
        layout = "H x W x C" if is_array else "C x H x W"
        channels = ", ".join(f"{count} ({names})" for count, names in CHANNELS.items())
        raise CdlError(f"{name} is not an image: expected {layout}, C one of {channels}")
    _check_size(pixels, name)
    pixels = pixels * 255 if pixels.dtype == torch.bool else pixels
    if len(pixels) in (2, 4):
        _warn_of_transparency(name)
    return pixels[:3] if len(pixels) > 2 else pixels[:1].repeat(3, 1, 1)


def read_image_size(path: str | Path, content: bytes | None = None) -> tuple[int, int]:
    """Return (H, W) in pixels of the result of read_image; only the header is read."""
    with open_image(path, content) as file:
        width, height = file.size
        if file.format == "TIFF":  # Pillow has swapped its sides already
            width, height = file.tag_v2[TIFF_WIDTH], file.tag_v2[TIFF_HEIGHT]
        sideways = file.getexif().get(ORIENTATION) in SIDEWAYS
        return (width, height) if sideways else (height, width)


def write_png(path: str | Path, image: np.ndarray) -> None:
    """Write an image atomically: H x W x 3, uint8, RGB; or H x W, uint8 or uint16, gray."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as temporary:  # torchvision's ignores a full disk
        Image.fromarray(image).save(temporary, format="PNG")


def _upright(pixels: torch.Tensor, orientation: object) -> torch.Tensor:
    """Rotate pixels like ImageOps.exif_transpose, which fails on some other EXIF entries."""
    if orientation in SIDEWAYS:
        pixels = pixels.transpose(1, 2)
    flips = {1: (3, 4, 7, 8), 2: (2, 3, 6, 7)}  # rows and columns
    return pixels.flip([side for side, values in flips.items() if orientation in values])
