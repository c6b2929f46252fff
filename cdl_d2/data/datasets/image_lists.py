"""Names of the images of a data set."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from cdl_d2.codec.io.image_files import find_images
from cdl_d2.data.datasets.coco import read_coco


def list_images(folder: Path, annotations: Path | None = None) -> list[str]:
    """Return the paths of all images under a folder, relative to it, with forward slashes.

    With a COCO-format file of annotations, return the file names in it instead.

    Raises:
        FileNotFoundError: if the folder does not exist.
        CdlError: if it has no image, or the annotations are invalid.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no image folder {folder}")
    if annotations is None:
        return [path.relative_to(folder).as_posix() for path in find_images(folder)]
    records = read_coco(annotations, parts=["images"], images=folder)["images"]
    return sorted({str(PurePosixPath(record["file_name"])) for record in records})


def image_key(name: str) -> str:
    """Return a path without its suffix, which an image, its copies and its bitstream share."""
    return str(PurePosixPath(name).with_suffix(""))
