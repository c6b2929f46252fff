"""Images in files: which there are, and their pixels."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from cdl_d2.errors import CdlError
from cdl_d2.files import write_atomically

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
ORIENTATION = 0x0112  # the EXIF tag


def find_images(folder: Path) -> list[Path]:
    """All images under a folder, sorted.

    Raises:
        NotADirectoryError: if there is no such folder.
        CdlError: if there is no image.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"there is no folder {folder}")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise CdlError(f"no image ({', '.join(sorted(IMAGE_SUFFIXES))}) under {folder}")
    return paths


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
    except (
        Image.DecompressionBombError,
        EOFError,
        OSError,
        SyntaxError,
        ValueError,
        struct.error,
    ) as error:
        raise CdlError(f"{path} cannot be read as an image: {error}") from error


def read_image(path: str | Path, content: bytes | None = None) -> torch.Tensor:
    """3 x H x W, uint8, RGB, turned upright as its EXIF tag says.

    Args:
        content: of the file, which is then not opened; `path` names it in errors.

    Raises:
        FileNotFoundError, CdlError: as reading_image; for more than 8 bits a channel, which would
            be clipped.
    """
    with reading_image(path), Image.open(path if content is None else io.BytesIO(content)) as file:
        if file.mode.startswith(("I", "F")):
            raise CdlError(f"{path} has more than 8 bits a channel ({file.mode}): convert it")
        return _upright(pil_to_tensor(file.convert("RGB")), file.getexif().get(ORIENTATION))


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
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 2)
    flips = {1: (3, 4, 7, 8), 2: (2, 3, 6, 7)}  # rows and columns
    return pixels.flip([side for side, turned in flips.items() if orientation in turned])
