"""Reading the images of a folder."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.transforms.functional import pil_to_tensor

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def find_images(folder: Path) -> list[Path]:
    """All images under a folder, sorted.

    Raises:
        ValueError: if there is none.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise ValueError(f"no image ({', '.join(sorted(IMAGE_SUFFIXES))}) under {folder}")
    return paths


def read_image(path: Path) -> torch.Tensor:
    """3 x H x W, uint8, RGB, turned upright as its EXIF tag says.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not an image, or a damaged one.
    """
    try:
        with Image.open(path) as file:
            return pil_to_tensor(ImageOps.exif_transpose(file).convert("RGB"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no image {path}") from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:  # Pillow raises all of them
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
