"""Reading the images of a folder."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.transforms.functional import pil_to_tensor

from cdl_d2.errors import CdlError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


# What Pillow raises for files that are damaged, hostile, or no images.
UNREADABLE = (
    Image.DecompressionBombError,
    OSError,
    SyntaxError,
    UnidentifiedImageError,
    ValueError,
)


def find_images(folder: Path) -> list[Path]:
    """All images under a folder, sorted.

    Raises:
        NotADirectoryError: if there is no such folder.
        ValueError: if there is no image.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"there is no folder {folder}")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise CdlError(f"no image ({', '.join(sorted(IMAGE_SUFFIXES))}) under {folder}")
    return paths


def read_image(path: Path) -> torch.Tensor:
    """3 x H x W, uint8, RGB, turned upright as its EXIF tag says.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not an image, a damaged one, or one of more than 8 bits a channel,
            which would be clipped.
    """
    try:
        with Image.open(path) as file:
            if file.mode.startswith(("I", "F")):
                raise CdlError(f"its values have more than 8 bits ({file.mode}): convert it")
            return pil_to_tensor(ImageOps.exif_transpose(file).convert("RGB"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no image {path}") from error
    except UNREADABLE as error:
        raise CdlError(f"{path} cannot be read as an image: {error}") from error
