"""Data sets with one folder of images per class, such as ImageNet, and lists of such images."""

from __future__ import annotations

from pathlib import Path

from cdl_d2.codec.io.folders import is_leftover, list_files, report_skipped
from cdl_d2.codec.io.image_files import IMAGE_SUFFIXES, is_named_as_image
from cdl_d2.errors import CdlError
from cdl_d2.files import read_lines


def find_classes(source: str | Path) -> list[str]:
    """Return the sorted names of the classes: folders in a folder, or folders of listed images.

    Raises:
        FileNotFoundError: if the folder or list does not exist.
        CdlError: if there is no class.
    """
    source = Path(source)
    if source.is_file():
        return sorted({Path(name).parent.name for name in _read_list(source)})
    if not source.is_dir():
        raise FileNotFoundError(f"there is no folder of classes, or list of images, {source}")
    names = sorted(p.name for p in source.iterdir() if p.is_dir() and not is_leftover(p.name))
    if not names:
        raise CdlError(f"{source} has no folders: expected one per class, with its images")
    return names


def find_labelled_images(source: str | Path) -> list[tuple[Path, int]]:
    """Return all images with the index of their class, class by class, sorted; or those of a list.

    Args:
        source: folder with one folder per class; or a text file with one image of such folders per
            line, such as `images/brick/brick_000001.jpg` in MINC-2500's `labels/train1.txt`,
            relative to the folder of the list or a parent of it.

    Raises:
        FileNotFoundError: if the folder or list does not exist.
        CdlError: if there is no class, a class has no image, or a listed image does not exist.
    """
    names, source = find_classes(source), Path(source)
    if source.is_file():
        labels = {name: label for label, name in enumerate(names)}
        return [(path, labels[path.parent.name]) for path in _resolve_list(source)]
    images, skipped = [], []
    for label, name in enumerate(names):
        listing = list_files(source / name, is_named_as_image)
        for error in listing.errors.values():
            raise error
        if not listing.files:
            raise CdlError(
                f"class folder {source / name} has no image "
                f"({', '.join(sorted(IMAGE_SUFFIXES))}): remove it, or fill it"
            )
        images += [(path, label) for path in listing.files]
        skipped += listing.skipped
    report_skipped(skipped, "image")
    return images


def _read_list(path: Path) -> list[str]:
    names = read_lines(path)
    if not names:
        raise CdlError(f"{path} lists no image: expected one per line, such as CLASS/IMAGE.jpg")
    return names


def _resolve_list(path: Path) -> list[Path]:
    names = _read_list(path)
    folders = path.absolute().parents
    root = next((folder for folder in folders if (folder / names[0]).is_file()), folders[0])
    for name in names:
        if not (root / name).is_file():
            raise CdlError(f"{path} lists {name}, which is not in {root}: unpack the images there")
    return [root / name for name in names]
