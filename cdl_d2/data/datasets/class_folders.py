"""Data sets with a folder of images for each class, such as ImageNet, and lists of such images."""

from __future__ import annotations

from pathlib import Path

from cdl_d2.codec.io.folders import is_leftover, list_files, report_skipped
from cdl_d2.codec.io.image_files import IMAGE_SUFFIXES, is_named_as_image
from cdl_d2.errors import CdlError


def find_classes(source: str | Path) -> list[str]:
    """Names of the classes, sorted: the folders in a folder, or those of the images in a list.

    Raises:
        FileNotFoundError: if there is no such folder or list.
        CdlError: if there is no folder in it, or the list has no image.
    """
    source = Path(source)
    if source.is_file():
        return sorted({Path(name).parent.name for name in _listed(source)})
    if not source.is_dir():
        raise FileNotFoundError(f"there is no folder of classes, or list of images, {source}")
    names = sorted(p.name for p in source.iterdir() if p.is_dir() and not is_leftover(p.name))
    if not names:
        raise CdlError(f"{source} has no folders: expected one for each class, with its images")
    return names


def find_labelled_images(source: str | Path) -> list[tuple[Path, int]]:
    """All images and the index of their class, class by class, sorted; or those of a list.

    Args:
        source: a folder with a folder for each class. Or a text file that names images of such
            folders, one a line, as `images/brick/brick_000001.jpg` in MINC-2500's
            `labels/train1.txt`; they lie in the folder of the list, or in one above it.

    Raises:
        FileNotFoundError, CdlError: as find_classes; CdlError for a class without images, or an
            image of the list that is not there.
    """
    names, source = find_classes(source), Path(source)
    if source.is_file():
        labels = {name: label for label, name in enumerate(names)}
        return [(path, labels[path.parent.name]) for path in _found(source)]
    found, skipped = [], []
    for label, name in enumerate(names):
        listing = list_files(source / name, is_named_as_image)
        for error in listing.errors.values():
            raise error
        if not listing.files:
            raise CdlError(
                f"class folder {source / name} has no image "
                f"({', '.join(sorted(IMAGE_SUFFIXES))}): remove it, or fill it"
            )
        found += [(path, label) for path in listing.files]
        skipped += listing.skipped
    report_skipped(skipped, "image")
    return found


def _listed(path: Path) -> list[str]:
    try:
        names = [
            line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
        ]
    except UnicodeDecodeError as error:
        raise CdlError(f"{path} is no list of images: {error}") from error
    if not names:
        raise CdlError(f"{path} names no image: expected one a line, such as CLASS/IMAGE.jpg")
    return names


def _found(path: Path) -> list[Path]:
    names = _listed(path)
    folders = path.absolute().parents
    root = next((each for each in folders if (each / names[0]).is_file()), folders[0])
    for name in names:
        if not (root / name).is_file():
            raise CdlError(f"{path} names {name}, which is not in {root}: unpack the images there")
    return [root / name for name in names]
