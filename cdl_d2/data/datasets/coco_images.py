"""Images of a COCO-format file, in normal form."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from cdl_d2.codec.io.image_files import read_image_size
from cdl_d2.codec.latent import check_pixels
from cdl_d2.data.datasets.coco_findings import Findings, as_integer, unique_records
from cdl_d2.errors import CdlError

SIDES = ("height", "width")


def normalize_images(
    images: list[Any], folder: Path | None, beside: Path, findings: Findings
) -> list[dict[str, Any]]:
    """Return images with unique integer ids, file names inside the folder, and sizes.

    If the folder of the images is unknown (None), missing sizes may be read from images `beside`
    the annotation file.
    """
    records = unique_records("images", images, "file_name", findings)
    _normalize_names(records, folder, findings)
    for record in records:
        _normalize_size(record, folder or beside, findings)
    return records


def require_image_files(paths: Iterable[Path], source: object) -> None:
    """Raise CdlError with the first missing images of a file, `source`, and their number."""
    findings, names = Findings(source), {}
    for path in paths:
        if path.parent not in names:
            folder = path.parent
            names[folder] = (
                {file.name for file in folder.iterdir()} if os.path.isdir(folder) else ()
            )
        if path.name not in names[path.parent]:
            findings.fault(str(path), "there is no such image")
    findings.close()


def _normalize_names(images: list[dict[str, Any]], folder: Path | None, findings: Findings) -> None:
    names = [_with_slashes(image["file_name"], folder) for image in images]
    if folder is not None and names:
        names = _relative_to(folder, names)
    for image, name in zip(images, names, strict=True):
        if not _is_inside(name):
            problem = f"file_name {image['file_name']!r:.200} is not inside the image folder"
            findings.fault(f"image {image['id']}", problem)
        elif name != image["file_name"]:
            findings.repair("file names in another form", f"{image['file_name']!r:.200}")
        image["file_name"] = name


def _with_slashes(name: object, folder: Path | None) -> str:
    """Return a file name without backslashes and a leading `./`; empty for an invalid one.

    Without a folder, names are only compared, and leading slashes are removed.
    """
    if not isinstance(name, str) or "\0" in name:
        return ""
    if "\\" in name and not (folder is not None and os.path.isfile(folder / name)):
        name = name.replace("\\", "/")
    name = name.lstrip("/") if folder is None else name
    return str(PurePosixPath(name)) if name else ""


def _relative_to(folder: Path, names: list[str]) -> list[str]:
    """Remove the first parts that all names share, if only then the images are in the folder."""
    first = PurePosixPath(names[0]).parts
    if _is_inside(names[0]) and os.path.isfile(folder / names[0]):
        return names
    for count in range(1, len(first)):
        if os.path.isfile(folder.joinpath(*first[count:])):
            shorter = ["/".join(PurePosixPath(name).parts[count:]) for name in names]
            unique = len(set(shorter)) == len(set(names))
            if unique and all(_is_inside(n) and os.path.isfile(folder / n) for n in shorter):
                return shorter
    return names


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.name) and not path.is_absolute() and ".." not in path.parts


def _normalize_size(image: dict[str, Any], folder: Path, findings: Findings) -> None:
    label, name = f"image {image['id']}", image["file_name"]
    sides = [as_integer(image.get(side)) or 0 for side in SIDES]
    try:
        if min(sides) >= 1:
            if any(type(image[side]) is not int for side in SIDES):
                findings.repair("sizes of images as text or floats", label)
        elif _is_inside(name) and os.path.isfile(folder / name):
            sides = list(read_image_size(folder / name))
            findings.repair("sizes of images, read from the files", label)
        else:
            side = SIDES[0] if sides[0] < 1 else SIDES[1]
            raise CdlError(f"{name} has {side} {image.get(side)!r:.40}, not a number of pixels")
        check_pixels((sides[0], sides[1]))
    except (CdlError, OSError) as error:
        findings.fault(label, error if name in str(error) else f"{name}: {error}")
        sides = [1, 1]
    image.update(zip(SIDES, sides, strict=True))
