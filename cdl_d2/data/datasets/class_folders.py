"""Data sets with a folder of images for each class, such as ImageNet."""

from __future__ import annotations

from pathlib import Path

from cdl_d2.codec.image_files import IMAGE_SUFFIXES
from cdl_d2.errors import CdlError


def find_classes(folder: str | Path) -> list[str]:
    """Names of the classes, sorted: the folders in a folder.

    Raises:
        FileNotFoundError: if there is no such folder.
        CdlError: if there is no folder in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder of classes {folder}")
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise CdlError(f"{folder} has no folders: expected one for each class, with its images")
    return names


def find_labelled_images(folder: str | Path) -> list[tuple[Path, int]]:
    """All images and the index of their class, class by class, sorted.

    Raises:
        FileNotFoundError, CdlError: as find_classes; CdlError for a class without images.
    """
    found = []
    for label, name in enumerate(find_classes(folder)):
        paths = (Path(folder) / name).rglob("*")
        images = sorted(path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES)
        if not images:
            raise CdlError(
                f"class folder {Path(folder) / name} has no image "
                f"({', '.join(sorted(IMAGE_SUFFIXES))}): remove it, or fill it"
            )
        found += [(path, label) for path in images]
    return found
